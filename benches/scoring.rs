//! What the engine costs beside the networks: images per second through it, and through bare forward passes.
//!
//! `benches/run scoring` drives it (`scoring.py`), with PyTorch beside it. Arguments: a folder that holds a race and a
//! clinical network as TorchScript in three forms (see `FORMS`), the precision, the number of threads, and what is
//! measured: `bare` (on the CPU) or `engine`, for which a device (`cpu`, `cuda:0`) and the largest batch may follow. One
//! process measures one of them, since a second team of OpenMP threads beside the processor's number lets both sleep
//! between operations. Then each line on standard input asks for a measurement, which is answered by one line of seconds
//! per image, both networks together.

use std::hint::black_box;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sidelight::config::{Device, PrecisionChoice};
use sidelight::domain::{Contract, Digest, ModelInput, Precision};
use sidelight::infer::{Engine, EngineOptions, Package};
use tch::{CModule, Kind, Tensor};

const NETWORKS: [&str; 2] = ["resnet34_race3", "densenet121_clin14"];
/// As it was traced, frozen in channels last, and that in bf16 for input in bf16.
const FORMS: [&str; 3] = [".pt", ".frozen_cl.pt", ".bf16.pt"];
const SIDE: u32 = 320;
/// Images of a measurement, which wait in memory as a decoder would bring them: this many on the CPU, on a GPU as many
/// batches as there are here of the largest.
const IMAGES: usize = 48;
const GPU_BATCHES: usize = 16;
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [folder, precision, threads, what, place @ ..] = arguments.as_slice() else {
        println!(
            "usage: scoring FOLDER fp32|bf16|fp16 THREADS bare|engine [DEVICE [BATCH]]; `benches/run scoring` explains the \
             folder and compares"
        );
        return;
    };
    let precision = match precision.as_str() {
        "fp32" => Precision::Fp32,
        "bf16" => Precision::Bf16,
        "fp16" => Precision::Fp16,
        other => panic!("fp32, bf16 or fp16, not {other}"),
    };
    let device = match place.first().map_or("cpu", String::as_str) {
        "cpu" => Device::Cpu,
        other => {
            let index = other.strip_prefix("cuda:").and_then(|i| i.parse().ok());
            Device::Cuda(index.expect("cpu or cuda:0"))
        }
    };
    let batch_max: usize = place.get(1).map_or(0, |n| n.parse().expect("a batch size"));
    let threads: usize = threads.parse().expect("a number of threads");
    if what == "bare" {
        tch::set_num_threads(i32::try_from(threads).expect("some threads"));
        let bare = Bare::new(Path::new(folder), precision);
        println!("{{\"batches\": {:?}}}", bare.batches);
        std::io::stdin().lock().lines().for_each(|_| println!("{}", bare.seconds()));
        return;
    }
    let cards = tempfile::tempdir().expect("a folder");
    let packages: Vec<Package> = [0, 1].map(|i| package(Path::new(folder), cards.path(), i)).into();
    let options = EngineOptions {
        devices: vec![device],
        precision: PrecisionChoice::Named(precision),
        batch_max,
        batch_delay: Duration::from_millis(5),
        threads,
        deterministic: false,
    };
    let engine = Engine::start(packages.clone(), options).expect("models that start");
    let batches: Vec<usize> = engine.placements().iter().map(|p| p.batch_max).collect();
    println!("{{\"batches\": {batches:?}}}");
    let images = match device {
        Device::Cpu => IMAGES,
        _ => GPU_BATCHES * batches.iter().max().copied().unwrap_or(1),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in std::io::stdin().lock().lines() {
        println!("{}", runtime.block_on(through(&engine, &packages, images)));
    }
}

/// Seconds per image when as many wait as the engine lets in, for both models.
async fn through(engine: &Engine, packages: &[Package], images: usize) -> f64 {
    let planes: Vec<Vec<f32>> = (0..IMAGES).map(image).collect();
    let input = |p: &Package, i: usize| ModelInput { contract: p.contract.digest(), plane: planes[i % IMAGES].clone() };
    let inputs: Vec<Vec<ModelInput>> = packages.iter().map(|p| (0..images).map(|i| input(p, i)).collect()).collect();
    let start = Instant::now();
    let _coming = engine.announce();
    let mut tasks = tokio::task::JoinSet::new();
    for (package, inputs) in packages.iter().zip(inputs) {
        for input in inputs {
            let (engine, key) = (engine.clone(), package.key());
            tasks.spawn(async move { engine.score(&key, input).await.expect("a score") });
        }
    }
    while let Some(scores) = tasks.join_next().await {
        black_box(scores.expect("a task that ends"));
    }
    start.elapsed().as_secs_f64() / images as f64
}

/// Forward passes on tensors that are ready, in the layout and type of the network.
struct Bare {
    networks: Vec<CModule>,
    /// The fastest batch of each network.
    batches: Vec<usize>,
    kind: Kind,
}

impl Bare {
    fn new(folder: &Path, precision: Precision) -> Self {
        let (form, kind) =
            if precision == Precision::Bf16 { (FORMS[2], Kind::BFloat16) } else { (FORMS[1], Kind::Float) };
        let load = |name: &str| CModule::load(folder.join(format!("{name}{form}"))).expect("a frozen network");
        let networks: Vec<CModule> = NETWORKS.iter().map(|name| load(name)).collect();
        let fastest = |network: &CModule| {
            let seconds = |n: &usize| run(network, *n, kind, 2);
            let times: Vec<f64> = BATCHES.iter().map(seconds).collect();
            let best = times.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).expect("some batches");
            BATCHES[best.0]
        };
        let batches = networks.iter().map(fastest).collect();
        Self { networks, batches, kind }
    }

    fn seconds(&self) -> f64 {
        let each = self.networks.iter().zip(&self.batches);
        each.map(|(network, n)| run(network, *n, self.kind, IMAGES.div_ceil(*n))).sum()
    }
}

/// Seconds per image, after one run that does not count.
fn run(network: &CModule, images: usize, kind: Kind, runs: usize) -> f64 {
    let _guard = tch::no_grad_guard();
    let images: Vec<Tensor> = (0..images).map(|i| Tensor::from_slice(&contract().spread(&image(i)))).collect();
    let side = i64::from(SIDE);
    let batch = Tensor::stack(&images, 0).view([-1, 3, side, side]).to_kind(kind);
    let batch = batch.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let forward = || black_box(network.forward_ts(&[&batch]).expect("a forward pass"));
    drop(forward());
    let start = Instant::now();
    (0..runs).for_each(|_| drop(forward()));
    start.elapsed().as_secs_f64() / (runs * images.len()) as f64
}

fn contract() -> Contract {
    Contract::preset("imagenet-rgb", SIDE).expect("a preset")
}

/// As a decoder leaves it.
fn image(i: usize) -> Vec<f32> {
    (0..contract().plane_len()).map(|at| ((at % 1973 + 31 * i) as f32 * 0.003).sin().abs()).collect()
}

/// A package of the network as it was traced: what freezing and precision do, the engine does.
fn package(folder: &Path, cards: &Path, i: usize) -> Package {
    let dir: PathBuf = cards.join(NETWORKS[i]);
    std::fs::create_dir_all(&dir).expect("a folder");
    let bytes = std::fs::read(folder.join(format!("{}{}", NETWORKS[i], FORMS[0]))).expect("a network");
    std::fs::write(dir.join("weights.pt"), &bytes).expect("a file");
    let (purpose, activation, outputs) = if i == 0 {
        let groups = ["2028-9", "2054-5", "2106-3"];
        let group = |code: &&str| format!("[[output.groups]]\nkey = \"g{code}\"\ncode = \"{code}\"\n");
        ("race", "softmax", groups.iter().map(group).collect::<String>())
    } else {
        let finding = |i: i32| {
            format!(
                "[[output.findings]]\nkey = \"f{i}\"\nthreshold = 0.5\n\
                 code = {{ value = \"{i}\", scheme = \"99BENCH\", meaning = \"Finding {i}\" }}\n"
            )
        };
        ("clinical", "sigmoid", (0..14).map(finding).collect())
    };
    let card = format!(
        "name = \"{name}\"\nversion = \"1\"\nmanufacturer = \"bench\"\npurpose = \"{purpose}\"\nformat = \"torchscript\"\n\
         file = \"weights.pt\"\nsha256 = \"{hash}\"\ndevice_uid = \"2.25.{uid}\"\n\
         [input]\ncontract = \"imagenet-rgb\"\nsize = {SIDE}\n[output]\nactivation = \"{activation}\"\n{outputs}\
         [[precision]]\nkind = \"bf16\"\nscore_tolerance = 0.1\n\
         [[precision]]\nkind = \"fp16\"\nscore_tolerance = 0.1\n\
         [provenance]\ntraining_data = \"none\"\nintended_use = \"bench\"\nlimits = \"all\"\nlicense = \"none\"\n",
        name = NETWORKS[i],
        hash = Digest::of(&bytes).as_str(),
        uid = i + 1,
    );
    std::fs::write(dir.join("model.toml"), card).expect("a card");
    Package::load(&dir).expect("a package")
}
