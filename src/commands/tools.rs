//! `echo`, `normalise`, `version`: small tools for setting a site up.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use sidelight::config::{Config, Endpoint, PeerTls};
use sidelight::deliver::{self, Peer};
use sidelight::domain::{AeTitle, Contract};
use sidelight::infer::Package;
use sidelight::pixels::{self, Frames, Workers};
use sidelight::wire::Tls;

use super::{print, print_json, table};

/// C-ECHO; over TLS where that is asked for, or where the peer is a destination that is called so.
pub async fn echo(config: &Config, peer: &Peer, calling: &AeTitle, over_tls: bool) -> anyhow::Result<ExitCode> {
    let known = config.destinations.iter().find_map(|destination| match &destination.endpoint {
        Endpoint::Dimse { ae_title, host, port, tls } => {
            ((ae_title, host, *port) == (&peer.ae_title, &peer.host, peer.port)).then_some(tls.clone())?
        }
        Endpoint::Stow { .. } => None,
    });
    let asked = known.or_else(|| over_tls.then(PeerTls::default));
    let believed = config.tls.authorities.is_some() || asked.as_ref().is_none_or(|tls| !tls.certificates.is_empty());
    anyhow::ensure!(believed, "nothing says which certificate to believe: set tls.authorities");
    let security = deliver::security(peer, asked.as_ref(), &Tls::load(&config.tls, &config.sources)?)?;
    let start = Instant::now();
    deliver::echo(peer, &security, calling, Duration::from_secs(10)).await?;
    let milliseconds = start.elapsed().as_millis() as u64;
    print(&format!("{} answers at {}:{} after {milliseconds} ms", peer.ae_title, peer.host, peer.port))?;
    Ok(ExitCode::SUCCESS)
}

/// What to normalise, and where to.
pub struct Normalise {
    pub file: PathBuf,
    /// A preset, or the name of a model package.
    pub contract: String,
    /// Side of the input for a preset, pixels.
    pub size: u32,
    pub npy: Option<PathBuf>,
    pub png: Option<PathBuf>,
}

/// Writes what a model sees of the first frame of a file.
pub async fn normalise(config: &Config, options: &Normalise, json: bool) -> anyhow::Result<ExitCode> {
    let contract = match Contract::preset(&options.contract, options.size) {
        Some(contract) => contract,
        None => {
            let folder = config.models.dir.join(&options.contract);
            anyhow::ensure!(
                folder.join("model.toml").is_file(),
                "contract {} is neither a preset ({}) nor a model in {}",
                options.contract,
                Contract::PRESETS.join(", "),
                config.models.dir.display()
            );
            Package::load(&folder)?.contract
        }
    };
    if let Some(fault) = contract.fault() {
        anyhow::bail!("contract {}: {fault}", contract.name);
    }
    let executable = std::env::current_exe().context("this program's own path is not known")?;
    let workers = Workers::start(&config.pixels, executable);
    let header = workers.read_header(&options.file).await?;
    let normalised = workers.normalise(&options.file, std::slice::from_ref(&contract), Frames::First).await?;
    let input = normalised.inputs.first().context("the file holds no frame")?;
    let create = |path: &Path| {
        File::create(path).map(BufWriter::new).with_context(|| format!("{} cannot be written", path.display()))
    };
    if let Some(path) = &options.npy {
        pixels::write_npy(create(path)?, input, &contract)?;
    }
    if let Some(path) = &options.png {
        pixels::write_png(create(path)?, input, &contract)?;
    }
    let values = contract.spread(&input.plane);
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len().max(1) as f64;
    if json {
        print_json(&json!({
            "contract": contract, "label": contract.label(), "pixel_digest": normalised.pixel_digest,
            "shape": [contract.channels as u32, contract.size, contract.size], "minimum": low, "maximum": high,
            "mean": mean, "rows": header.rows, "columns": header.columns, "photometric": header.photometric,
            "bits_stored": header.bits_stored, "frames": header.frames,
        }))?;
    } else {
        let rows = [
            (
                "image",
                format!("{} × {}, {} bits, {}", header.rows, header.columns, header.bits_stored, header.photometric),
            ),
            ("pixel digest", normalised.pixel_digest.to_string()),
            ("contract", contract.label()),
            ("tensor", format!("{} × {} × {}", contract.channels, contract.size, contract.size)),
            ("values", format!("{low:.4} to {high:.4}, mean {mean:.4}")),
        ];
        print(&table(&["", ""], rows.map(|(k, v)| vec![k.to_owned(), v])))?;
    }
    Ok(ExitCode::SUCCESS)
}
