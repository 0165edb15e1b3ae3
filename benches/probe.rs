//! What the changes of the paper's battery cost beside the networks that see the changed images.
//!
//! `benches/run probe` drives it (`probe.py`), with numpy, scipy and PyTorch beside it. Arguments: `changes SIDE`, and each
//! line on standard input is answered by seconds per image on one thread, as JSON: of all filters of rows 18 and 19
//! (`filters`), of one low-pass of an image that nothing is known of (`one`), and of the battery (`battery`). Or
//! `engine FOLDER THREADS IMAGES`: FOLDER holds ResNet34 as TorchScript (as for `scoring`), and answers are seconds per
//! image for the whole battery through the engine (`changed`), and for as many planes that nothing is done to (`plain`).

use std::hint::black_box;
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

use sidelight::config::{Device, PrecisionChoice};
use sidelight::domain::{Contract, Digest, ModelInput, Precision};
use sidelight::infer::{Engine, EngineOptions, Package};
use sidelight::perturb::{Battery, Form, Lab, Perturbation, Plane, Transform, paper};

const NETWORK: &str = "resnet34_race3";
const SIDE: u32 = 320;
/// Images of a measurement of changes.
const IMAGES: usize = 4;
/// Planes that wait for the engine, and scores that are waited for.
const AHEAD: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["changes", side] => changes(side.parse().expect("a side")),
        ["engine", folder, threads, images] => engine(
            Path::new(folder),
            threads.parse().expect("a number of threads"),
            images.parse().expect("a number of images"),
        ),
        _ => println!("usage: probe changes SIDE | engine FOLDER THREADS IMAGES; `benches/run probe` compares"),
    }
}

/// Row 18 and 19 as published.
fn filters() -> Battery {
    Battery { perturbations: [18, 19].into_iter().flat_map(|row| paper::row(row, Form::AsPublished, 1)).collect() }
}

/// Filters, noise, blur, resolution and patches: what is asked of a model that is not trained anew.
fn battery() -> Battery {
    let form = Form::AsPublished;
    let neighbours = paper::RADII.windows(2).map(|radii| (radii[0], radii[1]));
    let bands = neighbours.clone().map(|(inner, outer)| Perturbation::of(Transform::BandPass { inner, outer }));
    let notches = neighbours.map(|(inner, outer)| Perturbation::of(Transform::Notch { inner, outer }));
    let mut perturbations = [paper::low_pass(form), paper::high_pass(form)].concat();
    perturbations.extend(bands.chain(notches).chain([paper::noise(form, 1), paper::blur(form)]));
    perturbations
        .extend(paper::resolution().into_iter().filter(|p| p.chain[0] != Transform::Resolution { side: SIDE }));
    perturbations.extend(paper::patches(form));
    Battery { perturbations }
}

fn changes(side: usize) {
    let images: Vec<Plane> = (0..IMAGES).map(|i| plane(side, i)).collect();
    let (filters, battery, singles) = (filters(), battery(), paper::low_pass(Form::AsPublished));
    println!("{{\"filters\": {}, \"battery\": {}}}", filters.perturbations.len(), battery.perturbations.len());
    let mut lab = Lab::default();
    let mut seconds = |of: &mut dyn FnMut(&mut Lab, &Plane)| {
        let start = Instant::now();
        images.iter().for_each(|image| of(&mut lab, image));
        start.elapsed().as_secs_f64() / IMAGES as f64
    };
    for _ in std::io::stdin().lock().lines() {
        let filters = seconds(&mut |lab, image| filters.of(lab, image).for_each(|changed| drop(black_box(changed))));
        let all = seconds(&mut |lab, image| battery.of(lab, image).for_each(|changed| drop(black_box(changed))));
        // The other images in between make it see each anew.
        let mut one = 0.0;
        for single in &singles {
            one += seconds(&mut |lab, image| drop(black_box(single.apply(lab, image)))) / singles.len() as f64;
        }
        println!("{{\"filters\": {filters}, \"one\": {one}, \"battery\": {all}}}");
    }
}

fn engine(folder: &Path, threads: usize, images: usize) {
    let cards = tempfile::tempdir().expect("a folder");
    let package = package(folder, cards.path());
    let options = EngineOptions {
        devices: vec![Device::Cpu],
        precision: PrecisionChoice::Named(Precision::Fp32),
        batch_max: 0,
        batch_delay: Duration::from_millis(5),
        threads,
        deterministic: false,
    };
    let engine = Engine::start(vec![package.clone()], options).expect("a model that starts");
    let batches: Vec<usize> = engine.placements().iter().map(|p| p.batch_max).collect();
    let battery = battery();
    println!("{{\"battery\": {}, \"batches\": {batches:?}}}", battery.perturbations.len());
    let planes: Vec<Plane> = (0..images).map(|i| plane(SIDE as usize, i)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (nothing, mut changed_first) = (nothing(battery.perturbations.len()), true);
    for _ in std::io::stdin().lock().lines() {
        let mut times = [0.0; 2];
        for of in if changed_first { [0, 1] } else { [1, 0] } {
            let made = [&battery, &nothing][of];
            times[of] = runtime.block_on(through(&engine, &package, &planes, made)) / images as f64;
        }
        changed_first = !changed_first;
        println!("{{\"changed\": {}, \"plain\": {}}}", times[0], times[1]);
    }
}

/// As many perturbations that do nothing.
fn nothing(count: usize) -> Battery {
    let one = |at| Perturbation { name: format!("{at}"), chain: Vec::new() };
    Battery { perturbations: (0..count).map(one).collect() }
}

/// Seconds for all images by all perturbations: one thread changes, the engine scores.
async fn through(engine: &Engine, package: &Package, planes: &[Plane], battery: &Battery) -> f64 {
    let (sender, mut coming) = tokio::sync::mpsc::channel::<ModelInput>(AHEAD);
    let (planes, battery, contract) = (planes.to_vec(), battery.clone(), package.contract.clone());
    let start = Instant::now();
    let _announced = engine.announce();
    let changing = std::thread::spawn(move || {
        let mut lab = Lab::default();
        for plane in &planes {
            for changed in battery.of(&mut lab, plane) {
                sender.blocking_send(changed.to_input(&contract)).expect("an engine that takes it");
            }
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(input) = coming.recv().await {
        if tasks.len() == AHEAD {
            black_box(tasks.join_next().await);
        }
        let (engine, key) = (engine.clone(), package.key());
        tasks.spawn(async move { engine.score(&key, input).await.expect("a score") });
    }
    black_box(tasks.join_all().await);
    changing.join().expect("a thread that ends");
    start.elapsed().as_secs_f64()
}

/// As a decoder leaves it.
fn plane(side: usize, i: usize) -> Plane {
    let value = |at: usize| ((at % 1973 + 31 * i) as f32 * 0.003).sin().abs();
    Plane::new(side, (0..side * side).map(value).collect()).expect("a plane")
}

fn package(folder: &Path, cards: &Path) -> Package {
    let dir = cards.join(NETWORK);
    std::fs::create_dir_all(&dir).expect("a folder");
    let bytes = std::fs::read(folder.join(format!("{NETWORK}.pt"))).expect("a network");
    std::fs::write(dir.join("weights.pt"), &bytes).expect("a file");
    let groups = ["2028-9", "2054-5", "2106-3"];
    let group = |code: &&str| format!("[[output.groups]]\nkey = \"g{code}\"\ncode = \"{code}\"\n");
    let contract = Contract::preset("imagenet-rgb", SIDE).expect("a preset");
    let card = format!(
        "name = \"{NETWORK}\"\nversion = \"1\"\nmanufacturer = \"bench\"\npurpose = \"race\"\nformat = \"torchscript\"\n\
         file = \"weights.pt\"\nsha256 = \"{hash}\"\ndevice_uid = \"2.25.1\"\n\
         [input]\ncontract = \"{contract}\"\nsize = {SIDE}\n[output]\nactivation = \"softmax\"\n{outputs}\
         [provenance]\ntraining_data = \"none\"\nintended_use = \"bench\"\nlimits = \"all\"\nlicense = \"none\"\n",
        hash = Digest::of(&bytes).as_str(),
        contract = contract.name,
        outputs = groups.iter().map(group).collect::<String>(),
    );
    std::fs::write(dir.join("model.toml"), card).expect("a card");
    Package::load(&dir).expect("a package")
}
