//! Tests of training as a whole, on toy images that are made in memory in no time.

use super::*;
use crate::domain::{Contract, Precision, Purpose};
use crate::train::data::{Sample, Target};
use crate::train::recipe::SplitRecipe;
use crate::train::recipe::fixtures::{CARD, recipe};
use crate::train::settings::{Augment, Balance};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// 160 noisy images of 16×16; in those of the second class a corner is brighter.
pub(super) fn toy(purpose: Purpose) -> (Dataset, Contract) {
    let contract = Contract::preset("minmax-unit", 16).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut samples = Vec::new();
    let mut values = Vec::new();
    for i in 0..160 {
        let present = i % 2 == 1;
        let mut image: Vec<f32> = (0..contract.plane_len()).map(|_| rng.random_range(0.0..0.5)).collect();
        if present {
            (0..6).for_each(|r| image[r * 16..r * 16 + 6].iter_mut().for_each(|v| *v += 0.4));
        }
        let target = match purpose {
            Purpose::Race => Target::Group(usize::from(present)),
            Purpose::Clinical => Target::Findings(vec![Some(present), (i % 3 > 0).then_some(!present)]),
        };
        let group = ["Black", "White"][i / 2 % 2].to_owned();
        samples.push(Sample { patient: format!("P{i}"), study: format!("S{i}"), group, target, part: None });
        values.push(image);
    }
    (Dataset::from_values(samples, &values, &contract, purpose, 2).unwrap(), contract)
}

pub(super) fn options() -> FitOptions {
    let training = "learning_rate = 1e-2\nbatch = 16\nepochs = 12\nplateau_factor = 0.5\nlearning_rate_min = 1e-4\n\
                    early_stop = 12";
    FitOptions {
        network: toml::from_str("architecture = \"compact\"\nwidth = 4\ndropout = 0.1").unwrap(),
        training: toml::from_str(training).unwrap(),
        augment: Augment { shift: 0.02, rotation: 2.0, ..Augment::default() },
        balance: Balance::Weights,
        seed: 3,
    }
}

pub(super) fn machine() -> Machine {
    Machine { device: tch::Device::Cpu, loader: LoaderOptions::default(), checkpoints: None, resume: false }
}

fn recipe_text(purpose: &str, output: &str) -> String {
    format!(
        r#"
name = "toy"
version = "0.1.0"
manufacturer = "Example Imaging"
purpose = "{purpose}"
seed = 3
phantoms_only = true
[data]
phantom = {{ world = "biased", patients = 60, seed = 4 }}
views = ["PA"]
split = {{ train = 0.5, validation = 0.25, test = 0.25 }}
[input]
contract = "minmax-unit"
size = 16
[network]
architecture = "compact"
width = 4
[training]
learning_rate = 0.01
batch = 16
epochs = 2
plateau_factor = 0.5
plateau_patience = 2
learning_rate_min = 1e-4
early_stop = 4
[output]
{output}
[scope]
modalities = ["DX", "CR"]
views = ["PA"]
{CARD}"#
    )
}

const FINDINGS: &str = r#"
[[output.findings]]
key = "pneumothorax"
threshold = "youden"
code = { value = "36118008", scheme = "SCT", meaning = "Pneumothorax" }
[[output.findings]]
key = "pleural_effusion"
threshold = { sensitivity = 0.8 }
code = { value = "60046008", scheme = "SCT", meaning = "Pleural effusion" }
"#;

#[test]
fn the_trainer_learns_what_can_be_learned() {
    for purpose in [Purpose::Race, Purpose::Clinical] {
        let (dataset, _) = toy(purpose);
        let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
        let fitted = fit(&dataset, &split, &options(), &machine(), &|_| ()).unwrap();
        let (first, last) = (&fitted.epochs[0], fitted.epochs.last().unwrap());
        assert!(last.train_loss < 0.5 * first.train_loss, "{first:?} {last:?}");
        let best = fitted.epochs.iter().rfind(|e| e.best).unwrap();
        assert!(best.validation_auc.iter().all(|auc| *auc > 0.9), "{purpose:?} {best:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_seed_another() {
    let (dataset, contract) = toy(Purpose::Clinical);
    let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
    let digest = |seed| {
        let mut options = FitOptions { seed, ..options() };
        // Dropout draws from libtorch's generator, which other tests use at the same time.
        options.network.dropout = None;
        options.training.epochs = 2;
        tch::set_num_threads(1);
        let fitted = fit(&dataset, &split, &options, &machine(), &|_| ()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weights.pt");
        infer::trace(&fitted.network.forward, &contract).unwrap().save(&file).unwrap();
        Digest::of(&std::fs::read(file).unwrap())
    };
    let first = digest(5);
    assert_eq!(digest(5), first);
    assert_ne!(digest(6), first);
}

#[test]
fn the_weights_of_the_best_epoch_are_kept() {
    let (dataset, _) = toy(Purpose::Race);
    let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
    let mut options = options();
    // Far too fast: the loss goes up and down.
    (options.training.learning_rate, options.training.plateau_patience, options.balance) = (0.3, 100, Balance::None);
    let fitted = fit(&dataset, &split, &options, &machine(), &|_| ()).unwrap();
    let lowest = fitted.epochs.iter().map(|e| e.validation_loss).fold(f64::INFINITY, f64::min);
    let network = &fitted.network;
    let logits = fit::predict(network, &dataset, &split.validation, &machine(), Precision::Fp32).unwrap();
    let truth = dataset.targets(&split.validation).unwrap().truth;
    let loss = f64::try_from(logits.cross_entropy_for_logits(&truth)).unwrap();
    assert!((loss - lowest).abs() < 1e-5 * (1.0 + lowest), "{loss} {lowest}");
}

fn options_for(recipe: PathBuf, dir: &Path) -> TrainOptions {
    TrainOptions {
        recipe,
        out_dir: dir.join("models"),
        cache_dir: dir.join("cache"),
        work_dir: None,
        resume: false,
        replace: false,
        checkpoint_batches: 0,
        device: config::Device::Cpu,
        threads: 1,
        loaders: 0,
        memory_bytes_max: 1 << 30,
    }
}

#[test]
fn a_recipe_goes_from_phantoms_to_a_package_that_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.toml");
    std::fs::write(&path, recipe_text("clinical", FINDINGS)).unwrap();
    let options = options_for(path, dir.path());
    let phantoms = std::sync::atomic::AtomicU64::new(0);
    let outcome = run(&options, &|event| {
        if let Event::Phantoms { .. } = event {
            phantoms.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    })
    .unwrap();
    assert!(phantoms.load(std::sync::atomic::Ordering::Relaxed) > 0);
    let package = Package::load(&options.out_dir.join("toy")).unwrap();
    assert_eq!(package.identity, outcome.package.identity);
    assert!(package.identity.phantoms_only);
    assert_eq!(package.provenance.metrics, outcome.evaluation.metrics);
    assert_eq!(package.findings()[0].threshold, outcome.evaluation.thresholds[0].threshold);
    let log = std::fs::read_to_string(options.out_dir.join("toy/training.csv")).unwrap();
    assert_eq!(log.lines().count(), 1 + outcome.epochs.len());

    // Beside it: the curve, the list of what was not used (lateral images), and no checkpoint any more.
    let mut left: Vec<_> = std::fs::read_dir(options.out_dir.join(".training/toy")).unwrap().flatten().collect();
    left.sort_by_key(std::fs::DirEntry::file_name);
    let left: Vec<_> = left.iter().map(|e| e.file_name().into_string().unwrap()).collect();
    assert_eq!(left, [".lock", "losses.csv", "losses.html", "losses.svg", "rejected.csv"]);
    let rejected = std::fs::read_to_string(options.out_dir.join(".training/toy/rejected.csv")).unwrap();
    assert!(rejected.lines().skip(1).all(|line| line.ends_with(",another view")) && rejected.lines().count() > 1);

    let card = std::fs::read_to_string(options.out_dir.join("toy/model.toml")).unwrap();
    let digest = Recipe::read(&options.recipe).unwrap().digest();
    assert!(card.contains(&format!("recipe = \"toy.toml, digest {digest}; images and labels ")), "{card}");
    let of_part = |i: usize| -> usize {
        let text = card.split("(images: ").nth(1).unwrap().split(')').next().unwrap();
        text.split(", ").nth(i).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    assert!(of_part(0) > of_part(1) && of_part(1) > 0 && of_part(2) > 0, "{card}");

    // The second run finds the same phantoms, and its package takes the place of the same one.
    run(&options, &|event| assert!(!matches!(event, Event::Phantoms { .. }))).unwrap();
    // Other weights do not, unless they are to.
    let text = std::fs::read_to_string(&options.recipe).unwrap();
    std::fs::write(&options.recipe, text.replace("learning_rate = 0.01", "learning_rate = 0.02")).unwrap();
    let error = format!("{:#}", run(&options, &|_| ()).unwrap_err());
    assert!(error.contains("version 0.1.0 with other weights"), "{error}");
    assert_eq!(Package::load(&options.out_dir.join("toy")).unwrap().identity, outcome.package.identity);
    let options = TrainOptions { resume: true, replace: true, ..options };
    let other = run(&options, &|event| assert!(!matches!(event, Event::Batch { .. }))).unwrap();
    assert_ne!(other.weights, outcome.weights);
    assert_eq!(Package::load(&options.out_dir.join("toy")).unwrap().identity, other.package.identity);
    let names: Vec<_> = std::fs::read_dir(&options.out_dir).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 2, "the package and the working folder: {names:?}");
}

/// The small network on phantoms of a world; the mean AUC of study scores on patients that it never saw, with limits.
fn auc_of_phantoms(world: &str, shares: &str) -> [f64; 3] {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.toml");
    let groups = "[[output.groups]]\nkey = \"Asian\"\ncode = \"2028-9\"\n[[output.groups]]\nkey = \"Black\"\n\
                  code = \"2054-5\"\n[[output.groups]]\nkey = \"White\"\ncode = \"2106-3\"";
    let phantoms =
        format!("{{ world = \"{world}\", patients = 400, seed = 6, texture_rms = 0.03, size = [320, 256] }}");
    let text = recipe_text("race", groups)
        .replace("{ world = \"biased\", patients = 60, seed = 4 }", &phantoms)
        .replace("{ train = 0.5, validation = 0.25, test = 0.25 }", shares)
        .replace("size = 16", "size = 96")
        .replace("width = 4", "width = 8")
        .replace("seed = 3\n", "seed = 31\n")
        .replace("learning_rate = 0.01", "learning_rate = 3e-3\nclip_norm = 5.0")
        .replace("plateau_factor = 0.5", "plateau_factor = 0.1")
        .replace("learning_rate_min = 1e-4", "learning_rate_min = 1e-5")
        .replace("epochs = 2", "epochs = 8")
        .replace("[output]", "[augment]\nzoom = 0.05\nshift = 0.03\n[output]");
    std::fs::write(&path, text).unwrap();
    let outcome = run(&options_for(path, dir.path()), &|_| ()).unwrap();
    ["auc_macro", "auc_macro_lower", "auc_macro_upper"].map(|name| outcome.evaluation.metrics[name])
}

#[test]
fn groups_of_phantoms_are_told_apart_where_they_differ_and_nowhere_else() {
    let [biased, ..] = auc_of_phantoms("biased", "{ train = 0.6, validation = 0.1, test = 0.3 }");
    assert!(biased >= 0.95, "{biased}");
    // Of 280 patients; the standard error is .025.
    let [null, lower, upper] = auc_of_phantoms("null", "{ train = 0.2, validation = 0.1, test = 0.7 }");
    assert!(lower < 0.5 && 0.5 < upper && (null - 0.5).abs() < 0.05, "{null} {lower} {upper}");
}

/// A network that trains in every precision, with everything that could make it go another way.
fn varied(precision: Precision) -> FitOptions {
    let mut options = options();
    options.training.precision = precision;
    options.training.clip_norm = Some(1.0);
    options.training.epochs = 5;
    options.balance = Balance::Sampling;
    options
}

#[test]
fn a_training_that_was_interrupted_anywhere_ends_as_if_it_had_not_been() {
    let (dataset, _) = toy(Purpose::Race);
    let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
    tch::set_num_threads(1);
    // Dropout draws from libtorch's generator, which other tests use at the same time; tests/it kills a process with it.
    let mut options = varied(Precision::Fp32);
    options.network.dropout = None;
    let weights = |fitted: &Fitted| {
        let mut all: Vec<_> = fitted.network.store.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let whole = fit(&dataset, &split, &options, &machine(), &|_| ()).unwrap();
    for (epoch, batch) in [(1, 0), (1, 3), (3, 5), (4, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints {
            folder: dir.path().to_owned(),
            recipe: Digest::of(b"recipe"),
            data: dataset.digest.clone(),
            machine: "test".to_owned(),
            batches: 1,
        };
        let mut machine = Machine { checkpoints: Some(checkpoints), ..machine() };
        let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fit(&dataset, &split, &options, &machine, &|event| match event {
                Event::Batch { epoch: e, done, .. } if (e, done) == (epoch, batch + 1) => panic!("interrupted"),
                _ => (),
            })
        }));
        assert!(interrupted.is_err(), "{epoch} {batch}");
        machine.resume = true;
        let resumed = fit(&dataset, &split, &options, &machine, &|_| ()).unwrap();
        assert_eq!(weights(&resumed), weights(&whole), "{epoch} {batch}");
        let told = |epochs: &[EpochReport]| -> Vec<_> {
            epochs.iter().map(|e| (e.epoch, e.learning_rate, e.train_loss, e.validation_loss, e.best)).collect()
        };
        assert_eq!(told(&resumed.epochs), told(&whole.epochs));
        // Of another recipe, or of other data, nothing goes on.
        let other = |recipe: &[u8], data: &[u8], expected: &str| {
            let mut machine = machine.clone();
            let checkpoints = machine.checkpoints.as_mut().unwrap();
            checkpoints.recipe = Digest::of(recipe);
            if !data.is_empty() {
                checkpoints.data = Digest::of(data);
            }
            let error = fit(&dataset, &split, &options, &machine, &|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        };
        other(b"another", b"", "is of another training: its recipe is not this one");
        other(b"recipe", b"other", "is of another training: its data are not this one");
        let file = Checkpoints::file(dir.path());
        let bytes = std::fs::read(&file).unwrap();
        // One bit among the weights.
        let mut changed = bytes.clone();
        let at = changed.len() - 100;
        changed[at] ^= 1;
        std::fs::write(&file, &changed).unwrap();
        let error = fit(&dataset, &split, &options, &machine, &|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("is not what was written"), "{error:#}");
        std::fs::write(&file, &bytes).unwrap();
        let mut fewer = split.clone();
        fewer.train[0] = split.test[0];
        let error = fit(&dataset, &fewer, &options, &machine, &|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("has other images than the training part"), "{error:#}");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let error = fit(&dataset, &split, &options, &machine, &|_| ()).unwrap_err();
        assert!(format!("{error:#}").starts_with("the checkpoint "), "{error:#}");
    }
}

#[test]
fn two_trainings_do_not_share_a_working_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Checkpoints::lock(dir.path()).unwrap();
    let error = Checkpoints::lock(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("another training works in "), "{error}");
    drop(first);
    Checkpoints::lock(dir.path()).unwrap();
}

#[test]
fn a_working_folder_among_the_packages_is_refused_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.toml");
    std::fs::write(&path, recipe_text("clinical", FINDINGS)).unwrap();
    let options = options_for(path, dir.path());
    for work_dir in [options.out_dir.clone(), dir.path().join("models/../models/."), options.out_dir.join("toy/work")] {
        let options = TrainOptions { work_dir: Some(work_dir), ..options.clone() };
        let error = run(&options, &|event| panic!("{event:?}")).unwrap_err().to_string();
        assert!(error.contains("--work is to be another folder"), "{error}");
        assert!(!options.out_dir.join("toy").exists());
    }
}

#[test]
fn reduced_precision_learns_too_and_keeps_its_parameters_in_full() {
    let (dataset, _) = toy(Purpose::Race);
    let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
    let mut options = varied(Precision::Bf16);
    options.training.epochs = 12;
    let fitted = fit(&dataset, &split, &options, &machine(), &|_| ()).unwrap();
    let best = fitted.epochs.iter().rfind(|e| e.best).unwrap();
    assert!(best.validation_auc.iter().all(|auc| *auc > 0.9), "{best:?}");
    assert!(fitted.network.store.variables().values().all(|v| v.kind() == tch::Kind::Float));
}

#[test]
fn balanced_sampling_draws_every_group_equally_often() {
    let (mut dataset, _) = toy(Purpose::Race);
    for (i, sample) in dataset.samples.iter_mut().enumerate() {
        sample.target = Target::Group(usize::from(i % 10 == 0));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut order: Vec<usize> = (0..160).collect();
    let share = |plan: &loader::Plan| {
        plan.order.iter().filter(|p| dataset.samples[**p].target.is(1) == Some(true)).count() as f64 / 160.0
    };
    let drawn = fit::plan(&dataset, &mut order, &varied(Precision::Fp32), &mut rng);
    assert!((share(&drawn) - 0.5).abs() < 0.12, "{}", share(&drawn));
    assert_eq!(drawn.changes.len(), 160);
    let plain = fit::plan(&dataset, &mut order, &self::options(), &mut rng);
    assert_eq!(share(&plain), 0.1);
}

#[test]
fn faults_of_a_recipe_are_named() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = recipe_text("clinical", FINDINGS);
        assert!(text.contains(from), "{from}");
        let error = recipe(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    assert!(recipe(&recipe_text("clinical", FINDINGS)).is_ok());
    check("learning_rate = 0.01", "learning_rate = 0", "training.learning_rate: above 0");
    check("early_stop = 4", "early_stop = 4\nmomentum = 1", "unknown field `momentum`");
    check("\"biased\"", "\"unfair\"", "\"unfair\" is none of null, biased");
    check("test = 0.25", "test = 0.35", "data.split");
    check("test = 0.25 }", "test = 0.25 }\nchange = [{ kind = \"resolution\", side = 0 }]", "data.change: a side of 0");
    check("test = 0.25 }", "test = 0.25 }\nchange = [{ kind = \"resolution\", size = 9 }]", "unknown field `size`");
    check("phantom = ", "folder = \".\"\nphantom = ", "give either phantom or folder or manifest");
    check("\"compact\"", "\"vgg\"", "unknown variant `vgg`");
    check("width = 4", "width = 4\ndrop_connect = 0.4", "network.drop_connect: for efficientnet only");
    check("width = 4", "width = 4\nstart_weights = { file = \"a\", sha256 = \"b\" }", "sha256");
    check("early_stop = 4", "early_stop = 4\nclip_norm = 0", "training.clip_norm: above 0");
    check("early_stop = 4", "early_stop = 4\nschedule = \"cosine\"", "unknown variant `cosine`");
    check("[output]", "[output]\nbalance = \"sampling\"", "output.balance: sampling is for groups");
    check("\"youden\"", "\"lucky\"", "unknown variant `lucky`");
    check("\"clinical\"", "\"race\"", "a race model has at least 2 groups");
    check("minmax-unit", "minmax", "\"minmax\" is no preset");
    // What the card would be refused for is refused before anything is trained.
    check("\"toy\"", "\"../toy\"", "name: \"../toy\" is not a package name");
    check("\"0.1.0\"", "\"first try\"", "version: \"first try\"");
    check("Example Imaging", "", "manufacturer: is empty");
    check("2026-01-31", "31.1.2026", "provenance.date: \"31.1.2026\" is not a date");
    check("\"tests\"", "\"\"", "provenance.intended_use: is empty");
    check("pleural_effusion", "pneumothorax", "pneumothorax occurs twice");
    check("\"SCT\"", "\"SNOMED\"", "no scheme that readers know");
    let group = "[[output.groups]]\nkey = \"White\"\ncode = \"2106-3\"\n[[output.findings]]";
    check("[[output.findings]]", group, "a clinical model findings");
    let groups =
        "[[output.groups]]\nkey = \"Black\"\ncode = \"2054-5\"\n[[output.groups]]\nkey = \"White\"\ncode = \"9\"";
    let error = recipe(&recipe_text("race", groups)).unwrap_err().to_string();
    assert!(error.contains("\"9\" is no CDCREC race category"), "{error}");
    let largest = recipe_text("race", &groups.replace("\"9\"", "\"2106-3\"")) + "[aggregation]\nmethod = \"max\"\n";
    assert!(recipe(&largest).unwrap_err().to_string().contains("\"max\" is for findings"));
}

#[test]
fn what_is_used_after_the_fit_may_be_corrected_before_a_training_goes_on() {
    let text = recipe_text("clinical", FINDINGS);
    let first = recipe(&text).unwrap();
    for (from, to, same) in [
        ("license = \"Apache-2.0\"", "license = \"MIT\"", true),
        ("\"youden\"", "{ fixed = 0.3 }", true),
        ("[card]", "[calibration]\nmethod = \"temperature\"\n[card]", true),
        ("learning_rate = 0.01", "learning_rate = 0.02", false),
        ("key = \"pneumothorax\"", "key = \"effusion\"", false),
    ] {
        let other = recipe(&text.replacen(from, to, 1)).unwrap();
        assert_eq!(first.fit_digest() == other.fit_digest(), same, "{to}");
        assert_ne!(first.digest(), other.digest(), "{to}");
    }
}

#[test]
fn every_recipe_that_is_shipped_can_be_read_and_has_a_network() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/recipes");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let recipe = Recipe::read(&path).unwrap();
        assert_eq!(Some(recipe.name.as_str()), path.file_stem().and_then(|s| s.to_str()));
        let contract = recipe.contract().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let (channels, outputs) = (i64::from(contract.channels), recipe.keys().len() as i64);
        let network = Network::new(&recipe.network, channels, outputs, tch::Device::Cpu, &mut rng).unwrap();
        let image = tch::Tensor::zeros([2, channels, 64, 64], (tch::Kind::Float, tch::Device::Cpu));
        assert_eq!((network.forward)(&image, true).unwrap().size(), [2, outputs], "{}", path.display());
        names.push(recipe.name);
    }
    assert_eq!(names.len(), 10, "{names:?}");
}
