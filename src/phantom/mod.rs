//! Synthetic chest radiographs with a known truth: DICOM files, labels, and what was planted.
//!
//! [`generate`] draws patients from a [`World`] and writes `studies/…/*.dcm`, `labels.csv` (one row per image, with
//! the self-reported group, which is in no DICOM header) and `world.json`. The same options give the same bytes.
//! Reading order: `world` (what is planted), `patient`, `device`, `pa` and `lateral` (the drawing, on `canvas` with
//! `texture`), `signal` (what tells groups apart in one place), `header` (DICOM). [`scores`] stands beside: cohorts of scores without pictures, for validation.
//! Neighbours: `train`, `profile` and the demo use the files. Left out: real anatomy; these pictures test and
//! demonstrate, no model that saw only them is fit for people.

mod canvas;
mod device;
mod header;
mod lateral;
mod pa;
mod patient;
pub mod scores;
mod signal;
mod texture;
mod world;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use canvas::Canvas;
use header::{Identity, Image};
use patient::{Patient, Stream};
use texture::Textures;

pub use signal::Signal;
pub use world::{Bmi, Drift, FINDINGS, FindingWorld, GroupWorld, Shortcut, Spectrum, World};

/// What to generate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhantomOptions {
    pub world: World,
    /// Number of patients; each has one study.
    pub patients: u32,
    pub seed: u64,
    /// Rows and columns, 64 to 4096 each.
    pub size: (u32, u32),
    /// Share of studies that have a lateral image besides the PA, 0..1.
    pub lateral_share: f64,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub studies: u64,
    pub images: u64,
    /// Patients by group, in the order of the world.
    pub groups: Vec<(String, u64)>,
    pub pneumothorax: u64,
    pub pleural_effusion: u64,
    pub labels: PathBuf,
    /// The folder of the DICOM files.
    pub studies_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    #[error("{0}")]
    Options(String),
    #[error("{} is there already: remove it or choose another folder", .0.display())]
    Occupied(PathBuf),
    #[error("cannot write {}: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
}

/// One row of `labels.csv`: an image, with the truth about its patient.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Label {
    /// Patient ID (0010,0020).
    pub patient: String,
    /// Study Instance UID.
    pub study: String,
    /// SOP Instance UID.
    pub instance: String,
    /// Relative to the folder of `labels.csv`.
    pub file: String,
    /// Self-reported group.
    pub group: String,
    pub age: u32,
    pub sex: String,
    /// `PA` or `LATERAL`.
    pub view: String,
    /// Manufacturer and model.
    pub device: String,
    /// Study date, YYYY-MM-DD.
    pub date: String,
    pub pneumothorax: u8,
    pub pleural_effusion: u8,
    /// Body mass index, kg/m², in worlds that have one; else there is no such column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmi: Option<f64>,
}

/// The projections that phantoms come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Projection {
    Pa,
    Lateral,
}

impl Default for PhantomOptions {
    fn default() -> Self {
        Self::new(World::null(), 100, 1)
    }
}

impl PhantomOptions {
    /// Images of 640 × 512 pixels, laterals in three of ten studies.
    pub fn new(world: World, patients: u32, seed: u64) -> Self {
        Self { world, patients, seed, size: (640, 512), lateral_share: 0.3 }
    }

    fn check(&self) -> Result<(), PhantomError> {
        let fault = |text: String| Err(PhantomError::Options(text));
        if let Some(broken) = self.world.fault() {
            return fault(format!("world {}: {broken}", self.world.name));
        }
        if !(64..=4096).contains(&self.size.0) || !(64..=4096).contains(&self.size.1) {
            return fault(format!("size {}x{}: rows and columns lie between 64 and 4096", self.size.0, self.size.1));
        }
        if let Some(signal) = self.world.signal.filter(|signal| !signal.fits(self.size)) {
            return fault(format!("size {}x{} is too small to show {signal:?}", self.size.0, self.size.1));
        }
        if self.patients == 0 || self.patients > 1_000_000 {
            return fault(format!("patients {}: 1 to 1000000 are possible", self.patients));
        }
        if !(0.0..=1.0).contains(&self.lateral_share) {
            return fault(format!("lateral share {}: it lies between 0 and 1", self.lateral_share));
        }
        Ok(())
    }

    /// Everything that decides about the images, but not how many there are.
    fn recipe(&self) -> String {
        let world = serde_json::to_string(&self.world).expect("a world is plain data");
        format!("{world} {} {}x{} {}", self.seed, self.size.0, self.size.1, self.lateral_share)
    }
}

impl Projection {
    fn as_str(self) -> &'static str {
        match self {
            Projection::Pa => "PA",
            Projection::Lateral => "LATERAL",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Projection::Pa => "pa.dcm",
            Projection::Lateral => "lateral.dcm",
        }
    }
}

/// Writes a set of phantoms into `out_dir`, which is created, using all cores of the current rayon pool.
/// `progress` is told how many studies of how many are done.
pub fn generate(
    options: &PhantomOptions,
    out_dir: &Path,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Summary, PhantomError> {
    options.check()?;
    let studies_dir = out_dir.join("studies");
    if studies_dir.exists() {
        return Err(PhantomError::Occupied(studies_dir));
    }
    make_dir(&studies_dir)?;
    let identity = Identity::new(&options.recipe(), options.seed);
    let (rows, cols) = (options.size.0 as usize, options.size.1 as usize);
    let textures = Textures::new(rows, cols, canvas::FIELD_HEIGHT_MM / rows as f64);
    let done = AtomicU64::new(0);
    progress(0, u64::from(options.patients));
    let labels: Vec<Vec<Label>> = (1..=options.patients)
        .into_par_iter()
        .map(|number| {
            let labels = generate_study(options, number, &identity, &textures, &studies_dir)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, u64::from(options.patients));
            Ok(labels)
        })
        .collect::<Result<_, PhantomError>>()?;

    let summary = summarise(&options.world, &labels, out_dir);
    write_labels(&labels, &summary.labels)?;
    let truth = serde_json::json!({ "sidelight": env!("CARGO_PKG_VERSION"), "options": options, "summary": {
        "studies": summary.studies, "images": summary.images, "groups": summary.groups,
        "pneumothorax": summary.pneumothorax, "pleural_effusion": summary.pleural_effusion } });
    let path = out_dir.join("world.json");
    std::fs::write(&path, format!("{truth:#}\n")).map_err(|e| failed(&path, e))?;
    Ok(summary)
}

fn generate_study(
    options: &PhantomOptions,
    number: u32,
    identity: &Identity,
    textures: &Textures,
    studies_dir: &Path,
) -> Result<Vec<Label>, PhantomError> {
    let patient = Patient::draw(&options.world, options.seed, number, options.lateral_share);
    let folder = format!("{number:04}");
    make_dir(&studies_dir.join(&folder))?;
    let mut projections = vec![Projection::Pa];
    if patient.has_lateral {
        projections.push(Projection::Lateral);
    }
    let mut labels = Vec::with_capacity(projections.len());
    for projection in projections {
        let canvas = picture(&patient, projection, options, textures);
        let pixels = canvas.store(patient.device);
        let image = Image { patient: &patient, projection, rows: canvas.rows, cols: canvas.cols, pixels };
        header::write(image, identity, &studies_dir.join(&folder).join(projection.file_name()))?;
        labels.push(label(&patient, projection, &options.world, identity, &folder));
    }
    Ok(labels)
}

/// Draws one view of a patient, grey values 0..1.
fn picture(patient: &Patient, projection: Projection, options: &PhantomOptions, textures: &Textures) -> Canvas {
    let blank = Canvas::new(options.size.0 as usize, options.size.1 as usize);
    let (world, rng) = (&options.world, |stream| patient::stream(options.seed, patient.number, stream));
    let mut canvas = match projection {
        Projection::Pa => pa::draw(patient, world, textures, blank, &mut rng(Stream::Pa)),
        Projection::Lateral => lateral::draw(patient, world, textures, blank, &mut rng(Stream::Lateral)),
    };
    if let Some(signal) = &world.signal {
        signal.plant(&mut canvas, patient.device, patient.group, world.groups.len());
    }
    canvas
}

fn label(patient: &Patient, projection: Projection, world: &World, identity: &Identity, folder: &str) -> Label {
    Label {
        patient: identity.patient_id(patient.number),
        study: identity.study(patient.number).to_string(),
        instance: identity.instance(patient.number, projection).to_string(),
        file: format!("studies/{folder}/{}", projection.file_name()),
        group: world.groups[patient.group].group.clone(),
        age: patient.age,
        sex: format!("{:?}", patient.sex),
        view: projection.as_str().into(),
        device: format!("{} {}", patient.device.manufacturer, patient.device.model),
        date: patient.imaged.to_string(),
        pneumothorax: u8::from(patient.pneumothorax.is_some()),
        pleural_effusion: u8::from(patient.pleural_effusion.is_some()),
        // To a tenth, as scales and rulers give it.
        bmi: patient.bmi.map(|bmi| (bmi * 10.0).round() / 10.0),
    }
}

fn summarise(world: &World, labels: &[Vec<Label>], out_dir: &Path) -> Summary {
    let firsts = || labels.iter().filter_map(|study| study.first());
    let count = |of: &dyn Fn(&Label) -> bool| firsts().filter(|l| of(l)).count() as u64;
    Summary {
        studies: labels.len() as u64,
        images: labels.iter().map(|study| study.len() as u64).sum(),
        groups: world.groups.iter().map(|g| (g.group.clone(), count(&|l| l.group == g.group))).collect(),
        pneumothorax: count(&|l| l.pneumothorax == 1),
        pleural_effusion: count(&|l| l.pleural_effusion == 1),
        labels: out_dir.join("labels.csv"),
        studies_dir: out_dir.join("studies"),
    }
}

fn write_labels(labels: &[Vec<Label>], path: &Path) -> Result<(), PhantomError> {
    let mut table = csv::Writer::from_path(path).map_err(|e| failed(path, e))?;
    for row in labels.iter().flatten() {
        table.serialize(row).map_err(|e| failed(path, e))?;
    }
    table.flush().map_err(|e| failed(path, e))
}

fn make_dir(path: &Path) -> Result<(), PhantomError> {
    std::fs::create_dir_all(path).map_err(|e| failed(path, e))
}

fn failed(path: &Path, cause: impl std::fmt::Display) -> PhantomError {
    PhantomError::Write { path: path.to_owned(), reason: cause.to_string() }
}

#[cfg(test)]
mod tests;
