//! `evidence gradients` and `evidence features`: what needs a network itself, and a table of labelled images.
//!
//! Images are curated files, decoded in this process as in training. Neighbours: `analyse` measures, `evidence` records
//! lines. Left out: tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use sidelight::analyse::{GradientOptions, LabelledImage, Pair};
use sidelight::assess::{self, Directed, NoLine};
use sidelight::cli::{FeaturesOf, Gradients};
use sidelight::config::{Config, Device};
use sidelight::domain::{Contract, LineKind, Purpose};
use sidelight::infer::{Package, WhiteBox, resolve_device};
use sidelight::perturb::Plane;
use sidelight::pixels::{self, Frames, Limits};
use tracing::warn;

use super::evidence::{may_audit, race_package, record};
use super::{print, progress};

/// Images of a table; more say no more, and take days.
const IMAGES_MAX: usize = 8000;
/// Planes whose features are computed at a time.
const AT_ONCE: usize = 16;

/// Lines of alignment and dose response of one clinical model.
pub fn run(config: &Config, options: &Gradients) -> anyhow::Result<ExitCode> {
    may_audit(config)?;
    let race = race_package(config)?;
    let clinical = Package::load(&config.models.dir.join(&options.model))?;
    anyhow::ensure!(clinical.purpose == Purpose::Clinical, "{} is no clinical model", options.model);
    let device = resolve_device(config.models.devices.first().copied().unwrap_or(Device::Auto))?;
    let load = |package: &Package| {
        WhiteBox::load(package, device).with_context(|| format!("no gradients of {}", package.identity.name))
    };
    let networks = [load(&race)?, load(&clinical)?];
    let untrained = WhiteBox::untrained(&clinical, device, u32::try_from(options.out.seed).unwrap_or(u32::MAX));
    let untrained = untrained.inspect_err(|reason| {
        warn!(%reason, "there is no network that knows nothing to compare with: the lines will count for nothing");
    });
    let pair =
        Pair { race: (&race, &networks[0]), clinical: (&clinical, &networks[1]), untrained: untrained.as_ref().ok() };
    if let Some(fault) = pair.fault() {
        anyhow::bail!(fault);
    }
    let rows = rows(&options.images, &options.strata)?;
    let image = |row: &Row| LabelledImage {
        patient: row.patient.clone(),
        group: row.group.clone(),
        stratum: row.stratum.clone(),
    };
    let images: Vec<LabelledImage> = rows.iter().map(image).collect();
    let contracts = [race.contract.clone(), clinical.contract.clone()];
    let settings = GradientOptions {
        heads: options.heads as usize,
        copies: options.copies as usize,
        seed: options.out.seed,
        ..GradientOptions::default()
    };
    let bar = progress(2 * images.len() as u64, "gradients");
    let measured = pair.measure(&images, &|place| planes(&rows[place].file, &contracts), &settings, &|| bar.inc(1));
    bar.finish_and_clear();
    let of_kind = |kind: LineKind| {
        let lines = match &measured {
            Ok(runs) => {
                let own: Vec<Directed> = runs.iter().filter(|run| run.kind == kind).cloned().collect();
                assess::directed(&own)
            }
            Err(error) => Err(NoLine::Unusable(format!("{error:#}"))),
        };
        (clinical.key(), kind, lines)
    };
    let runs = vec![of_kind(LineKind::GradientAlignment), of_kind(LineKind::DoseResponse)];
    record(config, &race, runs, &options.out)
}

/// Writes a table of features.
pub fn features(config: &Config, options: &FeaturesOf) -> anyhow::Result<ExitCode> {
    may_audit(config)?;
    let package = Package::load(&config.models.dir.join(&options.model))?;
    let device = resolve_device(config.models.devices.first().copied().unwrap_or(Device::Auto))?;
    let network = match options.untrained {
        true => WhiteBox::untrained(&package, device, options.seed),
        false => WhiteBox::load(&package, device),
    };
    let network = network.with_context(|| format!("no features of {}", package.identity.name))?;
    let contracts = [package.contract.clone()];
    let rows = rows(&options.images, &[])?;
    let bar = progress(rows.len() as u64, "features");
    let context = || format!("{} cannot be written", options.out.display());
    let mut writer = csv::Writer::from_path(&options.out).with_context(context)?;
    let mut written = 0usize;
    for some in rows.chunks(AT_ONCE) {
        let read = some.iter().filter_map(|row| planes(&row.file, &contracts).map(|[plane]| (row, plane)));
        let (kept, planes): (Vec<&Row>, Vec<Plane>) = read.unzip();
        if planes.is_empty() {
            continue;
        }
        for (row, features) in kept.into_iter().zip(network.features(&planes)?) {
            if written == 0 {
                let names = (0..features.len()).map(|n| format!("feature_{n}"));
                let header = ["patient".to_owned(), "group".to_owned()].into_iter().chain(names);
                writer.write_record(header).with_context(context)?;
            }
            let numbers = features.iter().map(|v| format!("{v:.7e}"));
            let record = [row.patient.clone(), row.group.clone()].into_iter().chain(numbers);
            writer.write_record(record).with_context(context)?;
            written += 1;
        }
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    writer.flush().with_context(context)?;
    anyhow::ensure!(written > 0, "no image of {} could be used", options.images.display());
    print(&format!("features of {written} images are in {}", options.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The image as planes of these contracts; a warning where it cannot be one.
fn planes<const N: usize>(file: &Path, contracts: &[Contract; N]) -> Option<[Plane; N]> {
    let normalised = pixels::normalise_any_file(file, contracts, Frames::Middle, &Limits::default());
    let planes: Option<Vec<Plane>> = match normalised {
        Ok(normalised) => normalised.inputs.iter().zip(contracts).map(|(i, c)| Plane::of_input(i, c)).collect(),
        Err(refusal) => {
            warn!(file = %file.display(), %refusal, "an image is left out");
            return None;
        }
    };
    planes.and_then(|planes| planes.try_into().ok())
}

/// An image of a table.
struct Row {
    file: PathBuf,
    patient: String,
    group: String,
    stratum: String,
}

fn rows(table: &Path, strata: &[String]) -> anyhow::Result<Vec<Row>> {
    let context = || format!("{} cannot be read", table.display());
    let mut reader = csv::Reader::from_path(table).with_context(context)?;
    let headers: Vec<String> = reader.headers().with_context(context)?.iter().map(|h| h.trim().to_owned()).collect();
    for name in ["file", "patient", "group"].into_iter().chain(strata.iter().map(String::as_str)) {
        anyhow::ensure!(headers.iter().any(|h| h == name), "{} has no column {name}", table.display());
    }
    let folder = table.parent().unwrap_or(Path::new(""));
    let mut rows: Vec<Row> = Vec::new();
    for record in reader.records() {
        let record = record.with_context(context)?;
        let cells: HashMap<&str, &str> = headers.iter().map(String::as_str).zip(record.iter().map(str::trim)).collect();
        let cell = |name: &str| cells.get(name).copied().unwrap_or_default().to_owned();
        let stratum = strata.iter().map(|name| cell(name)).collect::<Vec<_>>().join("\0");
        rows.push(Row { file: folder.join(cell("file")), patient: cell("patient"), group: cell("group"), stratum });
        anyhow::ensure!(rows.len() <= IMAGES_MAX, "{} has more than {IMAGES_MAX} images", table.display());
    }
    Ok(rows)
}
