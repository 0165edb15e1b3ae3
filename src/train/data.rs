//! Samples and their images: a manifest, its files decoded and normalised to the model's contract, and what is to be
//! said of each.
//!
//! Pixels go through the same decoding and normalisation as in the node, in this process: phantoms and curated
//! training sets are trusted files. Each is decoded once, and changed once where the recipe says so. Neighbours: `manifest` says which files, `images` keeps what
//! was decoded, `phantom` writes such folders, `loader` makes batches.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tch::{Kind, Tensor};

use crate::domain::{Contract, Digest, ModelInput, Purpose};
use crate::infer;
use crate::perturb::{Lab, Perturbation, Plane};
use crate::phantom::{self, PhantomOptions};
use crate::pixels::{self, Frames, Limits, Normalised};

use super::images::Images;
use super::manifest::{Manifest, Reject, Row};
use super::progress::Event;
use super::recipe::Recipe;

/// What is known of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub patient: String,
    pub study: String,
    /// Self-reported group, for figures by group; empty where not known.
    pub group: String,
    pub target: Target,
    /// Where the manifest says it.
    pub part: Option<Part>,
}

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The part that a table means.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "train" | "training" => Some(Self::Train),
            "validation" | "validate" | "valid" | "val" => Some(Self::Validation),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// What the network is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Position of the group.
    Group(usize),
    /// One truth per finding, `None` where it is not known.
    Findings(Vec<Option<bool>>),
}

/// Targets of a batch: positions of groups (i64), or one column per finding (f32) and a mask of the same shape that is
/// 0 where the truth is not known.
#[derive(Debug)]
pub struct Targets {
    pub truth: Tensor,
    pub mask: Option<Tensor>,
}

/// Samples and their images.
#[derive(Debug)]
pub struct Dataset {
    pub samples: Vec<Sample>,
    images: Images,
    contract: Contract,
    pub purpose: Purpose,
    /// Number of outputs.
    pub outputs: usize,
    /// Of labels and of what the network sees.
    pub digest: Digest,
}

/// Where decoded images are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// Beyond so many bytes, in a file.
    pub memory_bytes_max: u64,
    /// Of that file, and of the list of images that are refused.
    pub spill_dir: &'a Path,
}

/// Lists images with equal pixels.
const TWINS_FILE: &str = "equal-pixels.csv";
/// Images that are decoded before they are put away.
const DECODED_AT_ONCE: usize = 64;
/// Of a hundred images, so many may be unreadable before something else must be wrong.
const UNREADABLE_PERCENT_MAX: usize = 1;

fn digest_of(values: &[f32]) -> Digest {
    Digest::of(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// The image, an input of this contract, as the recipe changes it.
fn changed(input: &ModelInput, change: &Perturbation, contract: &Contract, lab: &mut Lab, place: usize) -> ModelInput {
    let plane = Plane::of_input(input, contract).expect("an input of the contract that it was made by");
    change.apply_at(place, lab, &plane).to_input(contract)
}

/// Images with equal pixels: under two patients, one person could be in two parts.
#[derive(Default)]
struct Twins<'a> {
    first: HashMap<Digest, &'a Row>,
    found: Vec<[&'a Row; 2]>,
}

impl<'a> Twins<'a> {
    fn see(&mut self, pixels: Digest, row: &'a Row) {
        let first = *self.first.entry(pixels).or_insert(row);
        if first.sample.patient != row.sample.patient {
            self.found.push([first, row]);
        }
    }

    /// Writes all pairs to a file in the folder; one of an earlier run goes.
    fn refuse(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(TWINS_FILE);
        let Some([a, b]) = self.found.first() else {
            let _ = std::fs::remove_file(path);
            return Ok(());
        };
        let mut table = csv::Writer::from_path(&path).with_context(|| path.display().to_string())?;
        table.write_record(["file", "patient", "other_file", "other_patient"])?;
        for [a, b] in &self.found {
            let [file, other] = [a, b].map(|row| row.file.display().to_string());
            table.write_record([&file, &a.sample.patient, &other, &b.sample.patient])?;
        }
        table.flush().with_context(|| path.display().to_string())?;
        bail!(
            "{} and {} have equal pixels, but are of different patients ({} such pairs, all of them in {}): give them \
             one patient, or remove one",
            a.file.display(),
            b.file.display(),
            self.found.len(),
            path.display()
        );
    }
}

impl Dataset {
    /// From images in memory: one channel for each sample, `low..high` of the contract.
    pub fn from_values(
        samples: Vec<Sample>,
        values: &[Vec<f32>],
        contract: &Contract,
        purpose: Purpose,
        outputs: usize,
    ) -> anyhow::Result<Self> {
        ensure!(samples.len() == values.len() && !samples.is_empty(), "there are no images to train on");
        let mut images = Images::collect(contract.plane_len(), u64::MAX, Path::new(""));
        let mut hash = sha2::Sha256::new();
        for (sample, values) in samples.iter().zip(values) {
            let pixels = digest_of(values);
            hash.update(format!("{sample:?} {pixels}\n"));
            images.push(values)?;
        }
        let digest = Digest::from_hash(&hash.finalize());
        Ok(Self { samples, images: images.finish(), contract: contract.clone(), purpose, outputs, digest })
    }

    /// Reads the images that the manifest lists; what cannot be read is added to its rejects.
    pub fn load(
        manifest: &mut Manifest,
        recipe: &Recipe,
        contract: &Contract,
        keeping: Keeping<'_>,
        progress: &(dyn Fn(Event) + Sync),
    ) -> anyhow::Result<Self> {
        let (done, total) = (AtomicU64::new(0), manifest.rows.len() as u64);
        let (limits, change) = (Limits::default(), recipe.data.changes());
        let decode = |lab: &mut Lab, place: usize, row: &Row| {
            let contracts = std::slice::from_ref(contract);
            let found =
                pixels::normalise_any_file(&row.file, contracts, Frames::default(), &limits).map(|mut image| {
                    if !change.chain.is_empty() {
                        for (frame, input) in image.inputs.iter_mut().enumerate() {
                            // Every image has noise of its own.
                            *input = changed(input, &change, contract, lab, place + frame * total as usize);
                        }
                    }
                    // Of what the network sees: the same stored pixels look other with another window.
                    let seen: Vec<Digest> = image.inputs.iter().map(|input| digest_of(&input.plane)).collect();
                    (image, seen)
                });
            progress(Event::Loading { done: done.fetch_add(1, Ordering::Relaxed) + 1, total });
            found
        };
        let mut images = Images::collect(contract.plane_len(), keeping.memory_bytes_max, keeping.spill_dir);
        let (mut samples, mut unreadable) = (Vec::new(), Vec::new());
        let mut twins = Twins::default();
        let mut hash = sha2::Sha256::new();
        for (first, rows) in (0..).step_by(DECODED_AT_ONCE).zip(manifest.rows.chunks(DECODED_AT_ONCE)) {
            let places = rows.par_iter().enumerate();
            let decoded: Vec<Result<(Normalised, Vec<Digest>), _>> =
                places.map_init(Lab::default, |lab, (at, row)| decode(lab, first + at, row)).collect();
            for (row, decoded) in rows.iter().zip(decoded) {
                let file = || row.file.display().to_string();
                match decoded {
                    // Every frame that the node would score is an image with its study's labels.
                    Ok((image, seen)) => {
                        for (input, seen) in image.inputs.iter().zip(seen) {
                            images.push(&input.plane)?;
                            samples.push(row.sample.clone());
                            hash.update(format!("{:?} {seen}\n", row.sample));
                        }
                        twins.see(image.pixel_digest, row);
                    }
                    Err(refusal) => unreadable.push(Reject { line: 0, file: file(), reason: refusal.to_string() }),
                }
            }
        }
        if unreadable.len() * 100 > manifest.rows.len() * UNREADABLE_PERCENT_MAX {
            let (first, n) = (&unreadable[0], manifest.rows.len());
            bail!("{} of {n} images cannot be read; the first is {}: {}", unreadable.len(), first.file, first.reason);
        }
        let refused = twins.refuse(keeping.spill_dir);
        manifest.rejected.extend(unreadable);
        refused?;
        ensure!(!samples.is_empty(), "there are no images to train on");
        let digest = Digest::from_hash(&hash.finalize());
        let (purpose, outputs) = (recipe.purpose, recipe.keys().len());
        Ok(Self { samples, images: images.finish(), contract: contract.clone(), purpose, outputs, digest })
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn channels(&self) -> i64 {
        i64::from(self.contract.channels)
    }

    /// The images at these positions, one batch of one channel.
    pub fn batch(&self, positions: &[usize]) -> anyhow::Result<Tensor> {
        let mut values = Vec::new();
        positions.iter().try_for_each(|p| self.images.read(*p, &mut values))?;
        let side = i64::from(self.contract.size);
        Ok(Tensor::f_from_slice(&values)?.f_view([positions.len() as i64, 1, side, side])?)
    }

    /// A batch as the network wants it: every channel with its mean and deviation.
    pub fn prepared(&self, images: &Tensor) -> anyhow::Result<Tensor> {
        // One channel after the other, as PyTorch's loaders make them: convolutions in another layout round otherwise.
        Ok(infer::spread(&self.contract, images, Kind::Float)?.f_contiguous()?)
    }

    /// What the network is to say of them.
    pub fn targets(&self, positions: &[usize]) -> anyhow::Result<Targets> {
        let mut groups = Vec::new();
        let (mut truth, mut mask) = (Vec::new(), Vec::new());
        for i in positions {
            match &self.samples[*i].target {
                Target::Group(group) => groups.push(*group as i64),
                Target::Findings(findings) => {
                    truth.extend(findings.iter().map(|f| if *f == Some(true) { 1f32 } else { 0.0 }));
                    mask.extend(findings.iter().map(|f| if f.is_some() { 1f32 } else { 0.0 }));
                }
            }
        }
        if self.purpose == Purpose::Race {
            return Ok(Targets { truth: Tensor::f_from_slice(&groups)?, mask: None });
        }
        let shape = [positions.len() as i64, self.outputs as i64];
        let matrix = |values: &[f32]| Tensor::f_from_slice(values)?.f_view(shape);
        Ok(Targets { truth: matrix(&truth)?, mask: Some(matrix(&mask)?) })
    }
}

/// The recipe's table of images and the folder that its paths are relative to; phantoms are generated unless the same
/// ones are there already.
pub fn manifest(recipe: &Recipe, cache_dir: &Path, progress: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Manifest> {
    let (table, files) = match (&recipe.data.manifest, &recipe.data.folder) {
        (Some(table), folder) => {
            let beside = table.parent().unwrap_or(Path::new("")).to_owned();
            (table.clone(), folder.clone().unwrap_or(beside))
        }
        (None, Some(folder)) => (folder.join("labels.csv"), folder.clone()),
        (None, None) => {
            let folder = phantoms(recipe, cache_dir, progress)?;
            (folder.join("labels.csv"), folder)
        }
    };
    Manifest::read(&table, &files, recipe)
}

fn phantoms(recipe: &Recipe, cache_dir: &Path, progress: &(dyn Fn(Event) + Sync)) -> anyhow::Result<PathBuf> {
    let Some(wanted) = &recipe.data.phantom else {
        bail!("recipe {}: give data.phantom, data.folder or data.manifest", recipe.name);
    };
    let options = wanted.options().map_err(anyhow::Error::msg)?;
    let folder = cache_dir.join(wanted.folder_name());
    // world.json is written last: where it is and says the same, the set is whole.
    if same_phantoms(&folder.join("world.json"), &options) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    phantom::generate(&options, &folder, &|done, total| progress(Event::Phantoms { done, total }))?;
    Ok(folder)
}

fn same_phantoms(path: &Path, options: &PhantomOptions) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let Ok(found) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    // Floats in the file went through text; so must those they are compared with.
    let expected = serde_json::to_string(options).and_then(|t| serde_json::from_str::<serde_json::Value>(&t));
    found["sidelight"] == env!("CARGO_PKG_VERSION") && expected.is_ok_and(|e| found["options"] == e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::fixtures;

    #[test]
    fn every_pair_of_equal_pictures_of_two_patients_is_listed() {
        const OWN: &str = "name = \"toy\"\nversion = \"1\"\nmanufacturer = \"Example Imaging\"\npurpose = \"race\"\n\
                           seed = 1\n[data]\nmanifest = \"table.csv\"\n[[output.groups]]\nkey = \"Black\"\n\
                           code = \"2054-5\"\n[[output.groups]]\nkey = \"White\"\ncode = \"2106-3\"\n";
        let folder = tempfile::tempdir().unwrap();
        let recipe = fixtures::recipe_in(folder.path(), &[OWN, fixtures::TOY, fixtures::CARD].concat()).unwrap();
        let picture = |name: &str, seed: u8| {
            let mut encoder = png::Encoder::new(std::fs::File::create(folder.path().join(name)).unwrap(), 16, 16);
            encoder.set_color(png::ColorType::Grayscale);
            let pixels: Vec<u8> = (0..=255u8).map(|i| i.wrapping_mul(seed)).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        };
        for (name, seed) in [("a.png", 1), ("b.png", 3), ("c.png", 1), ("d.png", 3), ("e.png", 3)] {
            picture(name, seed);
        }
        let load = |patients: [&str; 5]| {
            let rows = ["a", "b", "c", "d", "e"].iter().zip(patients);
            let rows = rows.map(|(name, patient)| format!("{name}.png,{patient},Black\n")).collect::<String>();
            std::fs::write(folder.path().join("table.csv"), format!("file,patient,group\n{rows}")).unwrap();
            let mut manifest = manifest(&recipe, folder.path(), &|_| ()).unwrap();
            let keeping = Keeping { memory_bytes_max: 1 << 20, spill_dir: folder.path() };
            Dataset::load(&mut manifest, &recipe, &recipe.contract().unwrap(), keeping, &|_| ())
        };
        let error = load(["P1", "P2", "P3", "P4", "P2"]).unwrap_err().to_string();
        assert!(error.contains("(2 such pairs, all of them in ") && error.contains(TWINS_FILE), "{error}");
        let list = std::fs::read_to_string(folder.path().join(TWINS_FILE)).unwrap();
        let pairs: Vec<String> =
            list.replace(&format!("{}/", folder.path().display()), "").lines().map(str::to_owned).collect();
        assert_eq!(pairs[1..], ["a.png,P1,c.png,P3", "b.png,P2,d.png,P4"]);
        assert_eq!(load(["P1", "P2", "P1", "P2", "P2"]).unwrap().len(), 5);
        assert!(!folder.path().join(TWINS_FILE).exists(), "none is refused any more");
    }

    #[test]
    fn a_network_sees_planes_as_the_recipe_changes_them() {
        const GROUPS: &str = "name = \"toy\"\nversion = \"1\"\nmanufacturer = \"Example Imaging\"\npurpose = \"race\"\n\
                              seed = 1\n[[output.groups]]\nkey = \"Black\"\ncode = \"2054-5\"\n[[output.groups]]\n\
                              key = \"White\"\ncode = \"2106-3\"\n[data]\nmanifest = \"table.csv\"\n";
        let folder = tempfile::tempdir().unwrap();
        for (name, step) in [("a", 7u8), ("b", 7), ("c", 11)] {
            let file = std::fs::File::create(folder.path().join(format!("{name}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 16, 16);
            encoder.set_color(png::ColorType::Grayscale);
            let pixels: Vec<u8> = (0..=255u8).map(|i| i.wrapping_mul(step)).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
        let table = "file,patient,group\na.png,P1,Black\nb.png,P1,Black\nc.png,P2,White\n";
        std::fs::write(folder.path().join("table.csv"), table).unwrap();
        let load = |change: &str| {
            let text = [GROUPS, change, fixtures::TOY, fixtures::CARD].concat();
            let recipe = fixtures::recipe_in(folder.path(), &text).unwrap();
            let contract = recipe.contract().unwrap();
            let mut manifest = manifest(&recipe, folder.path(), &|_| ()).unwrap();
            let keeping = Keeping { memory_bytes_max: 1 << 20, spill_dir: folder.path() };
            let set = Dataset::load(&mut manifest, &recipe, &contract, keeping, &|_| ()).unwrap();
            let planes: Vec<Vec<f32>> = (0..3)
                .map(|at| {
                    let mut values = Vec::new();
                    set.images.read(at, &mut values).unwrap();
                    values
                })
                .collect();
            (set.digest, recipe.fit_digest(), planes)
        };
        let plain = load("");
        let low = load("change = [{ kind = \"low-pass\", diameter = 8, form = \"corrected\" }]\n");
        let filter = crate::perturb::Transform::LowPass { diameter: 8.0, form: crate::perturb::Form::Corrected };
        for (seen, image) in low.2.iter().zip(&plain.2) {
            let expected = Lab::default().apply(filter, &Plane::new(16, image.clone()).unwrap());
            assert!(seen.iter().zip(expected.values()).all(|(a, b)| (a - b).abs() < 1e-6));
            assert_ne!(seen, image);
        }
        assert!(low.0 != plain.0 && low.1 != plain.1, "other images, and another training");
        let noisy = load("change = [{ kind = \"noise\", sigma = 0.1, seed = 5, form = \"corrected\" }]\n");
        assert_eq!(plain.2[0], plain.2[1]);
        assert_ne!(noisy.2[0], noisy.2[1], "each image has noise of its own");
    }

    #[test]
    fn equal_pixels_of_two_patients_are_refused() {
        let row = |patient: &str, file: &str| Row {
            file: PathBuf::from(file),
            sample: Sample {
                patient: patient.to_owned(),
                study: String::new(),
                group: String::new(),
                target: Target::Group(0),
                part: None,
            },
        };
        let rows = [row("P1", "a.png"), row("P1", "copy.png"), row("P2", "other.png"), row("P3", "./a.png")];
        let mut twins = Twins::default();
        for (row, pixels) in rows.iter().zip([b"a", b"a", b"b"]) {
            twins.see(Digest::of(pixels), row);
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(twins.refuse(folder.path()).is_ok());
        twins.see(Digest::of(b"a"), &rows[3]);
        let error = twins.refuse(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("a.png and ./a.png have equal pixels, but are of different patients (1 "), "{error}");
    }
}
