//! Tests of `import`: what comes in whole, and what leaves nothing behind.

use super::*;
use crate::domain::Contract;
use crate::infer::layers::function;

const CARD: &str = r#"# how it came here
version = "1.0.0"
manufacturer = "Example Imaging"
purpose = "clinical"
format = "torchscript"
[input]
contract = "minmax-unit"
size = 8
[output]
activation = "logits-sigmoid"
[[output.findings]]
key = "pneumothorax"
threshold = 0.5
code = { value = "36118008", scheme = "SCT", meaning = "Pneumothorax" }
[provenance]
training_data = "none"
intended_use = "tests"
limits = "knows nothing"
license = "Apache-2.0"
"#;

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// `models/` and `network.pt`, a TorchScript file whose outputs are its mean times `scale`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        let scene = Self { folder };
        scene.network("network.pt", 1.0);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn network(&self, name: &str, scale: f64) {
        let forward =
            function(move |xs| xs.f_flatten(1, -1)?.f_mean_dim(1, true, tch::Kind::Float)?.f_mul_scalar(scale));
        crate::infer::trace(&forward, &Contract::preset("minmax-unit", 8).unwrap())
            .unwrap()
            .save(self.path(name))
            .unwrap();
    }

    fn stage(&self, weights: &str, card: &str, uid: &str) -> Result<Staged, ImportError> {
        fs::write(self.path("card.toml"), card).unwrap();
        stage(&Import {
            weights: &self.path(weights),
            card: &self.path("card.toml"),
            name: Some("chest"),
            models_dir: &self.path("models"),
            device_uid: Uid::parse(uid).unwrap(),
        })
    }

    fn refuses(&self, weights: &str, card: &str, expected: &str) {
        let error = self.stage(weights, card, "2.25.9").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert_eq!(self.entries(), self.before(), "after: {error}");
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("models")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Published packages only.
    fn before(&self) -> Vec<String> {
        self.entries().into_iter().filter(|name| !name.starts_with('.')).collect()
    }
}

#[test]
fn a_package_appears_when_it_is_published_and_as_it_was_pinned() {
    let scene = Scene::new();
    let staged = scene.stage("network.pt", CARD, "2.25.1").unwrap();
    assert!(scene.before().is_empty() && !scene.path("models/chest").exists());
    assert!(matches!(scene.stage("network.pt", CARD, "2.25.1"), Err(ImportError::Busy(_))));
    let dir = staged.publish().unwrap();
    assert_eq!(scene.entries(), ["chest"]);
    let package = Package::load(&dir).unwrap();
    assert_eq!(package.identity.weights, Digest::of(&fs::read(scene.path("network.pt")).unwrap()));
    assert_eq!(package.identity.device_uid.as_str(), "2.25.1");
    assert!(fs::read_to_string(dir.join("model.toml")).unwrap().starts_with("# how it came here\nname = \"chest\"\n"));

    let again = scene.stage("network.pt", CARD, "2.25.2").unwrap_err();
    assert!(matches!(again, ImportError::Present { .. }), "{again}");
    scene.network("other.pt", 2.0);
    scene.refuses("other.pt", CARD, "version 1.0.0 with other weights");
    scene.refuses("other.pt", &CARD.replace("1.0.0", "1.1.0"), "is there already (version 1.0.0)");
    let twin = format!("device_uid = \"2.25.1\"\n{}", CARD.replace("1.0.0", "1.1.0"));
    fs::rename(scene.path("models/chest"), scene.path("models/elsewhere")).unwrap();
    scene.refuses("other.pt", &twin, "Device UID 2.25.1 of the card is that of elsewhere");
    // What a killed import left behind goes with the next one.
    fs::create_dir(scene.path("models/.adding-dead")).unwrap();
    drop(scene.stage("other.pt", CARD, "2.25.3").unwrap());
    assert_eq!(scene.entries(), ["elsewhere"]);
    std::os::unix::fs::symlink("/nowhere", scene.path("models/chest")).unwrap();
    scene.refuses("other.pt", CARD, "is there already (no valid package)");
}

/// As a training writes one.
fn build(room: &Room, scene: &Scene) -> Package {
    let dir = room.dir("chest");
    fs::create_dir(&dir).unwrap();
    let sha256 = copy(&scene.path("network.pt"), &dir.join("weights.pt"), WEIGHTS_BYTES_MAX).unwrap();
    let card = files::pinned(CARD, "chest", "weights.pt", &sha256, "2.25.1").unwrap();
    fs::write(dir.join("model.toml"), card).unwrap();
    Package::load(&dir).unwrap()
}

#[test]
fn a_training_waits_for_other_changes_of_packages() {
    let scene = Scene::new();
    let models = scene.path("models");
    let other = lock(&models).unwrap();
    let waiting = std::thread::spawn({
        let models = models.clone();
        move || Room::new(&models).map(drop)
    });
    let models = models.canonicalize().unwrap();
    let opened = || {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == models)).count()
    };
    while opened() < 2 && !waiting.is_finished() {
        std::thread::yield_now();
    }
    drop(other);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_card_that_somebody_changed_is_replaced_only_on_request() {
    let scene = Scene::new();
    let models = scene.path("models");
    let publish = |replace| {
        let room = Room::new(&models).unwrap();
        let package = build(&room, &scene);
        room.publish(&package, replace)
    };
    let dir = publish(false).unwrap();
    publish(false).unwrap();
    let card = fs::read_to_string(dir.join("model.toml")).unwrap();
    let changed = card.replace("threshold = 0.5", "threshold = 0.4");
    assert_ne!(changed, card);
    fs::write(dir.join("model.toml"), &changed).unwrap();
    let error = publish(false).unwrap_err().to_string();
    assert!(error.contains("version 1.0.0 with the same weights and another card"), "{error}");
    assert_eq!(fs::read_to_string(dir.join("model.toml")).unwrap(), changed);
    publish(true).unwrap();
    assert_eq!(fs::read_to_string(dir.join("model.toml")).unwrap(), card);
    assert_eq!(scene.entries(), ["chest"]);
}

/// File systems that cannot exchange two folders, at each moment at which it may end.
#[test]
fn a_package_that_gives_way_in_two_steps_is_never_lost() {
    let scene = Scene::new();
    let models = scene.path("models");
    let (target, aside) = (models.join("chest"), models.join(".before-chest"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), "").unwrap();
    swap(&models.join(".adding-none"), &target, &aside).unwrap_err();
    assert!(target.join("old").exists() && !aside.exists());
    // Killed before the second step.
    fs::rename(&target, &aside).unwrap();
    let room = Room::new(&models).unwrap();
    assert!(target.join("old").exists() && !aside.exists());
    let dir = room.dir("chest");
    fs::create_dir(&dir).unwrap();
    swap(&dir, &target, &aside).unwrap();
    assert!(!target.join("old").exists() && !aside.exists() && !dir.exists());
    drop(room);
    // Killed before what was there is removed.
    fs::create_dir(&aside).unwrap();
    drop(Room::new(&models).unwrap());
    assert_eq!(scene.entries(), ["chest"]);
}

#[test]
fn what_is_no_weight_file_of_the_card_is_refused_by_name() {
    let scene = Scene::new();
    let write = |name: &str, bytes: &[u8]| fs::write(scene.path(name), bytes).unwrap();
    let whole = fs::read(scene.path("network.pt")).unwrap();
    // As torch.save writes a state dict since 1.6, and before.
    write("dict.pt", &zip(&["archive/data.pkl", "archive/data/0", "archive/version"]));
    write("old.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.");
    write("short.pt", &whole[..whole.len() / 2]);
    write("empty.pt", b"");
    write("other.zip", &zip(&["word/document.xml"]));
    write("header.safetensors", &[&8u64.to_le_bytes()[..], b"{}      "].concat());
    let fifo = scene.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::create_dir(scene.path("folder")).unwrap();
    let huge = File::create(scene.path("huge.safetensors")).unwrap();
    (&huge).write_all(&[&64u64.to_le_bytes()[..], b"{"].concat()).unwrap();

    scene.refuses("dict.pt", CARD, "dict.pt is a pickle (torch.save): it could run any program");
    scene.refuses("old.pt", CARD, "old.pt is a pickle");
    scene.refuses("short.pt", CARD, "no weight file that is known here");
    scene.refuses("empty.pt", CARD, "no weight file that is known here");
    scene.refuses("other.zip", CARD, "bring a TorchScript file (torch.jit.save) or safetensors");
    scene.refuses("header.safetensors", CARD, "set format = \"safetensors\"");
    scene.refuses("pipe", CARD, "is no regular file");
    scene.refuses("folder", CARD, "is no regular file");
    scene.refuses("/dev/zero", CARD, "is no regular file");
    scene.refuses("lost.pt", CARD, "No such file");
    let native = CARD.replace("\"torchscript\"", "\"safetensors\"\narchitecture = \"resnet18\"").replace("= 8", "= 32");
    scene.refuses("network.pt", &native, "set format = \"torchscript\"");
    let digest = Digest::of(b"other");
    scene.refuses(
        "network.pt",
        &format!("sha256 = \"{digest}\"\n{CARD}"),
        "it is not the file that the card describes",
    );
    scene.refuses("network.pt", &CARD.replace("version", "verzion"), "unknown field `verzion`");
    scene.refuses("network.pt", "[", "card.toml: ");
    scene.refuses("network.pt", "name = 3", "card.toml: ");
    scene.refuses("network.pt", &"#\n".repeat(1 << 20), "larger than 1048576 bytes");
    scene.refuses("network.pt", &CARD.replace("0.5", "1.5"), "probability");
    let found = copy(&scene.path("huge.safetensors"), &scene.path("copy"), 8).unwrap_err().to_string();
    assert!(found.contains("larger than 8 bytes"), "{found}");
}

#[test]
fn a_name_is_needed_and_checked() {
    let scene = Scene::new();
    fs::write(scene.path("card.toml"), CARD).unwrap();
    for (name, expected) in [(None, "\"\" is not a package name"), (Some("../up"), "\"../up\" is not a package name")] {
        let (weights, card, models) = (scene.path("network.pt"), scene.path("card.toml"), scene.path("models"));
        let import = Import {
            weights: &weights,
            card: &card,
            name,
            models_dir: &models,
            device_uid: Uid::parse("2.25.1").unwrap(),
        };
        let error = stage(&import).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = stage(&Import {
        weights: &scene.path("network.pt"),
        card: &scene.path("card.toml"),
        name: Some("chest"),
        models_dir: &scene.path("lost"),
        device_uid: Uid::parse("2.25.1").unwrap(),
    });
    assert!(error.unwrap_err().to_string().contains("lost: No such file"));
}

/// Every template becomes a package once it has a weight file, or a Device UID where there is none, under its own name.
#[test]
fn every_template_is_a_card_that_lacks_nothing_but_weights() {
    let folder = tempfile::tempdir().unwrap();
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/templates");
    let mut found = 0;
    for entry in fs::read_dir(templates).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let given = files::given(&text).unwrap();
        assert_eq!(given.name, Some(name.clone()), "{}", path.display());
        assert!(!text.contains("\nsha256"), "{}", path.display());
        let dir = folder.path().join(&name);
        fs::create_dir(&dir).unwrap();
        let card = if given.device_uid.is_some() {
            // By hand, as docs/results.md says. As it is, nobody takes it for a package.
            fs::write(dir.join("model.toml"), &text).unwrap();
            let said = Package::load(&dir).unwrap_err().to_string();
            assert!(said.contains("FRESH"), "{said}");
            text.replace("\"FRESH\"", "\"2.25.1\"")
        } else {
            fs::write(dir.join("weights"), b"weights").unwrap();
            files::pinned(&text, &name, "weights", &Digest::of(b"weights"), "2.25.1").unwrap()
        };
        fs::write(dir.join("model.toml"), card).unwrap();
        let package = Package::load(&dir).unwrap_or_else(|e| panic!("{e}"));
        found += 1;
        match name.as_str() {
            "xrv-race" | "xrv-race-torchscript" => {
                let keys: Vec<_> = package.groups().iter().map(|g| g.key.as_str()).collect();
                assert_eq!((keys, package.contract.size), (vec!["Asian", "Black", "White"], 320));
            }
            "xrv-densenet121-all" => {
                assert_eq!((package.findings().len(), package.columns, package.contract.channels), (18, 18, 1));
            }
            "xrv-densenet121-chex" => assert_eq!((package.findings().len(), package.columns), (11, 18)),
            "vendor-sr" | "vendor-csv" => {
                let product = package.elsewhere.as_ref().unwrap();
                assert!(matches!(product, crate::infer::Elsewhere::Product(_)) && package.findings().len() == 2);
            }
            "model-server" => {
                assert!(matches!(package.elsewhere, Some(crate::infer::Elsewhere::Server(_))));
            }
            _ => (),
        }
    }
    assert_eq!(found, 13, "templates");
}

/// A zip file of empty entries: the names of its central directory are all that is read.
fn zip(names: &[&str]) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.resize(64, 0);
    for name in names {
        let mut entry = b"PK\x01\x02".to_vec();
        entry.resize(46, 0);
        entry[28..30].copy_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend(entry);
        bytes.extend(name.as_bytes());
    }
    bytes
}
