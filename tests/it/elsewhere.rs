//! Clinical results that come from elsewhere, through the whole node: a real model server, a vendor's own reports, a
//! table. Each late, missing, twice and contradictory.

mod csv;
mod reading;
mod server;
mod sr;

pub use reading::write_reports;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{NodeOptions, phantoms, root};

/// The demo race model and further packages in a folder of models of its own, as `models.dir` takes it.
fn models(folder: &Path, packages: &[(&str, &str)]) -> PathBuf {
    let models = folder.join("models");
    for name in ["demo-race", "demo-clinical"] {
        let to = models.join(name);
        fs::create_dir_all(&to).expect("writable");
        for file in ["model.toml", "weights.pt"] {
            fs::copy(root().join("models").join(name).join(file), to.join(file)).expect("a copied demo model");
        }
    }
    for (name, card) in packages {
        fs::create_dir_all(models.join(name)).expect("writable");
        fs::write(models.join(name).join("model.toml"), card).expect("writable");
    }
    models
}

/// The configuration of a node that audits the package `name` of `models`, and has an archive on this port.
fn configuration(data: &Path, archive: u16, models: &Path, name: &str) -> String {
    let options = NodeOptions {
        data_dir: data,
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", archive, true, "withheld")],
        quiet_period: "300ms",
        extra: "",
    };
    let folder = |path: &Path| format!("dir = \"{}\"", path.display());
    crate::support::configuration(&options)
        .replace(&folder(&root().join("models")), &folder(models))
        .replace("[\"demo-clinical\"]", &format!("[\"{name}\"]"))
}

/// A card with the demo model's findings, thresholds and scope; `sections` come from the test.
fn card(name: &str, format: &str, sections: &str) -> String {
    let demo = fs::read_to_string(root().join("models/demo-clinical/model.toml")).expect("the demo card");
    let (_, rest) = demo.split_once("[[output.findings]]").expect("findings");
    let (rest, _) = rest.split_once("[golden]").expect("its own answers, at the end");
    format!(
        "name = \"{name}\"\nversion = \"3.1\"\nmanufacturer = \"Example Imaging\"\npurpose = \"clinical\"\n\
         format = \"{format}\"\ndevice_uid = \"2.25.31\"\n{sections}\n[output]\nactivation = \"sigmoid\"\n\
         [[output.findings]]{rest}"
    )
}

/// Phantoms of two patients: the frontal images alone, one for each study.
fn frontals(folder: &Path, patients: u32, seed: u64) -> Vec<PathBuf> {
    let files = phantoms(&folder.join("phantoms"), "biased", patients, seed);
    files.into_iter().filter(|f| matches!(crate::support::element(f, "ViewPosition").as_str(), "PA" | "AP")).collect()
}
