//! Maps of `analyse --explain`: pictures for people, values for programs, objects for a PACS.
//!
//! Each map is two PNG files in `maps/`, named by instance, model, finding and method: colours upon what the model saw, and
//! the values in 16 bits, whose range is in `result.json`. A map of the race model is called `groups`: no group is named
//! in any file name. Neighbours: `analyse` of the library makes maps, `report` colours them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use sidelight::analyse::{Analyser, Explained};
use sidelight::config::Explain;
use sidelight::domain::{AttributionMap, ReadyStudy, Report, Uid};
use sidelight::report;

/// The maps of a study.
#[derive(Debug, Default)]
pub struct Maps {
    pub explained: Vec<Explained>,
    /// What was written, as `result.json` has it.
    pub written: Vec<Value>,
    /// What there is no map of, with the reason.
    pub missing: Vec<Value>,
}

/// Explains the images of a study that are worth it, and writes the pictures below `out`.
pub async fn of_study(
    analyser: &Analyser,
    study: &ReadyStudy,
    analysed: &[Uid],
    paths: &BTreeMap<Uid, PathBuf>,
    rules: &Explain,
    out: &Path,
) -> anyhow::Result<Maps> {
    let folder = out.join("maps");
    fs::create_dir_all(&folder).with_context(|| format!("folder {} cannot be made", folder.display()))?;
    let mut images = Vec::new();
    for instance in analyser.most_telling(study, analysed, &[], rules.images_max) {
        let path = paths.get(&instance.header.sop_instance).context("an image that was scored has no file")?;
        images.push((path.as_path(), &instance.header));
    }
    let mut maps = Maps::default();
    analyser.explain(&images, &[], rules, &mut maps.explained).await?;
    for one in &maps.explained {
        for map in &one.maps {
            maps.written.push(write(&folder, one, map)?);
        }
        let missing = one.missing.iter().map(|(method, reason)| {
            json!({"instance": one.instance, "model": one.model.key(), "method": method, "reason": reason})
        });
        maps.missing.extend(missing);
    }
    Ok(maps)
}

/// Writes map objects beside the report; their names.
pub fn write_objects(objects: &[Report], out: &Path) -> anyhow::Result<Vec<String>> {
    let write = |object: &Report| {
        let name = format!("maps/{}.dcm", object.sop_instance);
        let path = out.join(&name);
        fs::write(&path, &object.file).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(name)
    };
    objects.iter().map(write).collect()
}

fn write(folder: &Path, one: &Explained, map: &AttributionMap) -> anyhow::Result<Value> {
    let plain = |text: &str| -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        text.chars().map(keep).take(64).collect()
    };
    let (model, target) = (plain(&map.model.name), plain(map.target_key()));
    let stem = format!("{}.{model}.{target}.{}", one.instance, map.method.as_str());
    let (overlay, values) = (format!("{stem}.png"), format!("{stem}.values.png"));
    let create = |name: &str| {
        let path = folder.join(name);
        File::create(&path).map(BufWriter::new).with_context(|| format!("{} cannot be written", path.display()))
    };
    let save = |file, colour, depth, bytes: &[u8]| -> anyhow::Result<()> {
        let mut encoder = png::Encoder::new(file, map.side, map.side);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(bytes)?;
        Ok(writer.finish()?)
    };
    let colours = report::overlay(&one.picture, map);
    save(create(&overlay)?, png::ColorType::Rgb, png::BitDepth::Eight, &colours)?;
    let (low, high) = map.extent();
    save(create(&values)?, png::ColorType::Grayscale, png::BitDepth::Sixteen, &sixteen_bits(map, low, high))?;
    Ok(json!({
        "instance": one.instance, "frame": one.frame, "model": map.model.key(), "target": map.target_key(),
        "method": map.method, "overlay": format!("maps/{overlay}"), "values": format!("maps/{values}"), "low": low,
        "high": high,
    }))
}

/// `low` as 0 and `high` as 65535, big endian.
fn sixteen_bits(map: &AttributionMap, low: f32, high: f32) -> Vec<u8> {
    let span = if high > low { high - low } else { 1.0 };
    let value = |v: &f32| ((v - low) / span * 65535.0).round() as u16;
    map.values.iter().flat_map(|v| value(v).to_be_bytes()).collect()
}
