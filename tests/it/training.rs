//! `sidelight train` as a process: tables of pictures, a kill in the middle, pictures beside another reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sidelight::domain::Contract;
use sidelight::pixels::{Frames, Limits, normalise_any_file};

use crate::support::{reference_python, run, run_ok, sidelight, wait_for};

const RECIPE: &str = r#"
name = "toy"
version = "0.1.0"
manufacturer = "Example Imaging"
purpose = "race"
seed = 5
[data]
manifest = "table.csv"
split = { train = 0.4, validation = 0.3, test = 0.3 }
[input]
contract = "minmax-unit"
size = 16
[network]
architecture = "compact"
width = 4
dropout = 0.3
[training]
learning_rate = 1e-3
batch = 8
epochs = 100
plateau_patience = 3
early_stop = 100
clip_norm = 2.0
[augment]
rotation = 10.0
horizontal_flip = true
[output]
balance = "sampling"
[[output.groups]]
key = "Black"
code = "2054-5"
[[output.groups]]
key = "White"
code = "2106-3"
[calibration]
method = "temperature"
[card]
training_data = "pictures of nothing"
intended_use = "tests"
limits = "all"
license = "Apache-2.0"
date = "2026-01-31"
"#;

/// A folder with a recipe, its table and its pictures: PNGs, of every patient two studies, one of two pictures.
fn scene(folder: &Path) -> PathBuf {
    let mut table = "file,patient,study,group\n".to_owned();
    let mut state = 12345_u32;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    for i in 0..120 {
        let (patient, group) = (i / 3, if i / 3 % 2 == 0 { "Black" } else { "White" });
        // Some look like the other group: scores without an error tell no temperature.
        let is_bright = (group == "White") != (i / 3 % 5 == 0);
        let bytes: Vec<u8> = (0..256).map(|at| noise() / 2 + if is_bright && at < 96 { 70 } else { 0 }).collect();
        let file = fs::File::create(folder.join(format!("{i}.png"))).expect("writable");
        let mut encoder = png::Encoder::new(file, 16, 16);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().and_then(|mut w| w.write_image_data(&bytes)).expect("a picture");
        table.push_str(&format!("{i}.png,P{patient},S{patient}-{},{group}\n", i % 3 / 2));
    }
    // One patient too many: which group is right is not known.
    table.push_str("0.png,P900,S900,Black\n1.png,P900,S900,White\n");
    fs::write(folder.join("table.csv"), table).expect("writable");
    let recipe = folder.join("toy.toml");
    fs::write(&recipe, RECIPE).expect("writable");
    recipe
}

fn train(recipe: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = sidelight(&["train", "--checkpoint-batches", "3", "--set", "models.threads=1"]);
    command.args(["--set", "models.device=cpu"]).arg(recipe).arg("--out").arg(out).args(more);
    command
}

fn epochs(out: &Path) -> usize {
    fs::read_to_string(out.join(".training/toy/losses.csv")).map_or(0, |text| text.lines().count().saturating_sub(1))
}

/// Kills the training when it has done so many epochs.
fn killed(command: &mut Command, out: &Path, after: usize) {
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    wait_for("epochs are done", Duration::from_secs(120), || epochs(out) >= after);
    child.kill().expect("SIGKILL");
    child.wait().expect("ended");
    assert!(!out.join("toy").exists(), "the training had ended before it was killed");
}

#[test]
fn a_training_that_was_killed_ends_with_the_weights_of_one_that_was_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let recipe = scene(folder.path());
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let said = run_ok(&mut train(&recipe, &whole, &[]));
    assert!(said.contains("toy@0.1.0#"), "{said}");

    killed(&mut train(&recipe, &broken, &[]), &broken, 2);
    // Hours of work are not begun anew by accident.
    let refused = run(&mut train(&recipe, &broken, &[]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("go on with --resume"), "{said}");
    let done = epochs(&broken);
    // Another number of threads that load images changes nothing.
    killed(&mut train(&recipe, &broken, &["--resume", "--loaders", "3"]), &broken, done + 20);
    // Nor does memory that is too small for the images.
    run_ok(&mut train(&recipe, &broken, &["--resume", "--memory", "10KiB"]));
    let read = |out: &Path, file: &str| fs::read(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    for file in ["toy/weights.pt", "toy/model.toml", "toy/training.csv", ".training/toy/losses.svg"] {
        assert!(read(&whole, file) == read(&broken, file), "{file} differs");
    }
    assert!(!broken.join(".training/toy/checkpoint.safetensors").exists());
    let card = fs::read_to_string(whole.join("toy/model.toml")).expect("a card");
    for key in ["[calibration]", "method = \"temperature\"", "auc_macro_lower = ", "calibration_error = "] {
        assert!(card.contains(key), "{key} in {card}");
    }
    let rejected = fs::read_to_string(whole.join(".training/toy/rejected.csv")).expect("a list");
    assert_eq!(rejected.lines().count(), 3, "{rejected}");

    // What was begun by one recipe goes on by no other.
    let other = folder.path().join("other");
    killed(&mut train(&recipe, &other, &[]), &other, 1);
    fs::write(&recipe, RECIPE.replace("1e-3", "2e-3")).expect("writable");
    let refused = run(&mut train(&recipe, &other, &["--resume"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("its recipe is not this one"), "{said}");
}

/// JPEG files of every kind that training sets have, beside what Python makes of them.
#[test]
fn pictures_have_the_grey_values_that_another_reader_sees() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let script = r#"
import sys
import imagecodecs, numpy
folder = sys.argv[1]
y, x = numpy.mgrid[0:32, 0:32]
grey = ((x * 5 + y * 3) % 256 // 2 + 40).astype("u1")
colour = numpy.stack([grey, grey[::-1], 255 - grey], -1)
for name, image, options in [("grey", grey, {}), ("colour", colour, {"subsampling": "420"}), ("full", colour, {"subsampling": "444"})]:
    data = imagecodecs.jpeg8_encode(image, level=92, **options)
    open(f"{folder}/{name}.jpg", "wb").write(data)
    imagecodecs.jpeg8_decode(data, outcolorspace="GRAYSCALE").astype("u1").tofile(f"{folder}/{name}.raw")
"#;
    run_ok(Command::new(reference_python()).args(["-c", script]).arg(folder.path()));
    let contract = Contract::preset("xrv-1024", 32).expect("a preset");
    for name in ["grey", "colour", "full"] {
        let file = folder.path().join(format!("{name}.jpg"));
        let contracts = std::slice::from_ref(&contract);
        let seen = normalise_any_file(&file, contracts, Frames::default(), &Limits::default()).expect("a picture");
        let expected = fs::read(folder.path().join(format!("{name}.raw"))).expect("written");
        assert_eq!(expected.len(), 32 * 32);
        for (found, expected) in seen.inputs[0].plane.iter().zip(&expected) {
            let code = (f64::from(*found) / 1024.0 + 1.0) / 2.0 * 255.0;
            assert!((code - f64::from(*expected)).abs() < 0.01, "{name}: {code} {expected}");
        }
        let bytes = fs::read(&file).expect("written");
        fs::write(&file, &bytes[..bytes.len() / 2]).expect("writable");
        assert!(normalise_any_file(&file, contracts, Frames::default(), &Limits::default()).is_err(), "{name}, cut");
    }
}

#[test]
fn a_recipe_without_start_weights_says_that_it_starts_at_random() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let train = |recipe: &Path| {
        let output = run(sidelight(&["train"]).arg(recipe).arg("--out").arg(folder.path().join("out")));
        assert!(!output.status.success(), "there is no table of images: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let recipe = folder.path().join("chest.toml");
    fs::copy(crate::support::root().join("models/recipes/chest-resnet34.toml"), &recipe).expect("copied");
    let said = train(&recipe);
    assert!(said.contains("starts from random weights") && said.contains("chest.csv"), "{said}");
    fs::write(&recipe, RECIPE).expect("writable");
    let said = train(&recipe);
    assert!(!said.contains("random weights") && said.contains("table.csv"), "{said}");
}
