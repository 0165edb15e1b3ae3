//! Bringing a package in: a weight file and a card become a folder of `models.dir`, all at once or not at all.
//!
//! The package is built in a folder whose name no package can have, and renamed into place when the engine has run
//! it. The card may leave out `file`, `sha256` and `device_uid`; what it does say must be true of the file.
//! Neighbours: `manifest` judges what was built, the command `model add` runs the engine between [`stage`] and
//! [`Staged::publish`]. Left out: fetching weights from anywhere.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use sha2::Digest as _;

use crate::domain::{Digest, Uid};

use super::check::{NAME_RULE, is_name};
use super::files::{self, CARD_BYTES_MAX, WEIGHTS_BYTES_MAX};
use super::manifest::{ManifestError, Package};

/// What is brought in.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    pub weights: &'a Path,
    /// A card, or a template of one.
    pub card: &'a Path,
    /// In place of the card's name.
    pub name: Option<&'a str>,
    pub models_dir: &'a Path,
    /// For a card that has none.
    pub device_uid: Uid,
}

/// Why nothing was brought in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{path} is {found}: {remedy}")]
    NotWeights { path: PathBuf, found: &'static str, remedy: &'static str },
    #[error("{path} has SHA-256 {found}, the card says {given}: it is not the file that the card describes")]
    OtherWeights { path: PathBuf, found: Digest, given: String },
    #[error("{name} {version} is there already, with the same weights; nothing was changed")]
    Present { name: String, version: String },
    #[error("{dir} is there already ({what}): choose another name with --name, or move it away")]
    Taken { dir: PathBuf, what: String },
    #[error(
        "{dir} is there already ({what}): let it be replaced with --resume --replace, golden values and all that was \
         changed in its card included, or move it away and --resume"
    )]
    Kept { dir: PathBuf, what: String },
    #[error("Device UID {uid} of the card is that of {other}: remove device_uid from the card, to get a fresh one")]
    TwinUid { uid: Uid, other: String },
    #[error("another `model add`, `model golden` or `train` works in {0}: wait for it to end")]
    Busy(PathBuf),
    #[error("{0}")]
    Card(#[from] ManifestError),
}

/// A package that nobody sees yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged {
    package: Package,
    scratch: Scratch,
    target: PathBuf,
    models_dir: PathBuf,
}

/// What a weight file's first and last bytes say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TorchScript,
    Safetensors,
    /// `torch.save`: a zip with a pickle and no code.
    Pickle,
    Unknown,
}

/// Names of folders that are being built; no package's name begins with a dot.
const SCRATCH: &str = ".adding-";
/// Names of packages that give way, for the moment in which neither has the name.
const BEFORE: &str = ".before-";
/// Another change of packages lets the engine run them, which takes minutes at most.
const PATIENCE: Duration = Duration::from_secs(600);
const PATIENCE_STEP: Duration = Duration::from_millis(100);
/// The table of contents of a TorchScript file lies within its last bytes.
const TAIL_BYTES: u64 = 4 << 20;
const PICKLE_REMEDY: &str = "it could run any program when it is read, and holds no network. Write its state dict as \
                             safetensors, or the model as TorchScript; docs/models.md has the commands";
const UNKNOWN_REMEDY: &str =
    "bring a TorchScript file (torch.jit.save) or safetensors; docs/models.md has the commands";

/// Copies the weights into a folder of their own, pins them in the card and checks all of it.
pub fn stage(import: &Import<'_>) -> Result<Staged, ImportError> {
    let models_dir = import.models_dir;
    let scratch = Scratch::new(models_dir, lock(models_dir)?)?;
    let text = read_card(import.card)?;
    let card_error = |reason: String| ImportError::File { path: import.card.to_owned(), reason };
    let given = files::given(&text).map_err(|e| card_error(e.message().replace('\n', " ")))?;
    let name = import.name.map(str::to_owned).or(given.name).unwrap_or_default();
    if !is_name(&name) {
        return Err(card_error(format!("{name:?} is not a package name; {NAME_RULE}")));
    }
    let dir = scratch.0.join(&name);
    make_folder(&dir)?;
    let kind = kind(import.weights)?;
    let file = match kind {
        Kind::TorchScript => "weights.pt",
        Kind::Safetensors => "weights.safetensors",
        Kind::Pickle => return Err(not_weights(import.weights, "a pickle (torch.save)", PICKLE_REMEDY)),
        Kind::Unknown => return Err(not_weights(import.weights, "no weight file that is known here", UNKNOWN_REMEDY)),
    };
    let sha256 = copy(import.weights, &dir.join(file), WEIGHTS_BYTES_MAX)?;
    if let Some(given) = given.sha256.filter(|given| !given.eq_ignore_ascii_case(sha256.as_str())) {
        return Err(ImportError::OtherWeights { path: import.weights.to_owned(), found: sha256, given });
    }
    let uid = given.device_uid.unwrap_or_else(|| import.device_uid.to_string());
    let pinned = files::pinned(&text, &name, file, &sha256, &uid).map_err(|e| card_error(e.message().to_owned()))?;
    let card = dir.join("model.toml");
    files::write_durably(&card, pinned.as_bytes()).map_err(|e| failed(&card, &e))?;
    bring_sidecars(&pinned, import.card.parent().unwrap_or(Path::new(".")), &dir)?;
    let target = models_dir.join(&name);
    is_free(&target, &given.version.unwrap_or_default(), &sha256)?;
    let package = Package::load(&dir)?;
    let expected = match package.weights {
        super::Weights::TorchScript => Kind::TorchScript,
        super::Weights::Safetensors(_) => Kind::Safetensors,
        super::Weights::Elsewhere => return Err(card_error("its format has no weight file to add".to_owned())),
    };
    if kind != expected {
        let (found, remedy) = match kind {
            Kind::TorchScript => ("TorchScript", "set format = \"torchscript\" in the card, and remove architecture"),
            _ => ("safetensors", "set format = \"safetensors\" in the card, and name the architecture"),
        };
        return Err(not_weights(import.weights, found, remedy));
    }
    has_its_own_uid(&package, models_dir)?;
    Ok(Staged { package, scratch, target, models_dir: models_dir.to_owned() })
}

impl Staged {
    /// The package, in the folder where it was built.
    pub fn package(&self) -> &Package {
        &self.package
    }

    pub fn dir(&self) -> PathBuf {
        self.scratch.0.join(&self.package.identity.name)
    }

    /// Makes the package visible under its name; the folder where it lies then.
    pub fn publish(self) -> Result<PathBuf, ImportError> {
        let dir = self.dir();
        files::sync_folder(&dir).map_err(|e| failed(&dir, &e))?;
        match renameat_with(CWD, &dir, CWD, &self.target, RenameFlags::NOREPLACE) {
            // Some network file systems cannot; nobody else adds while this one holds the lock.
            Err(rustix::io::Errno::INVAL) if !self.target.exists() => {
                fs::rename(&dir, &self.target).map_err(|e| failed(&self.target, &e))?;
            }
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::INVAL) => {
                let what = "since a moment ago".to_owned();
                return Err(ImportError::Taken { dir: self.target.clone(), what });
            }
            Err(error) => return Err(failed(&self.target, &error.into())),
            Ok(()) => (),
        }
        files::sync_folder(&self.models_dir).map_err(|e| failed(&self.models_dir, &e))?;
        Ok(self.target.clone())
    }
}

/// Where this program makes a package of its own, which may take another's place. Dropped, it is gone.
#[derive(Debug)]
pub struct Room {
    scratch: Scratch,
    models_dir: PathBuf,
}

impl Room {
    /// Waits for other changes of packages: what is built may have taken hours to make.
    pub fn new(models_dir: &Path) -> Result<Self, ImportError> {
        fs::create_dir_all(models_dir).map_err(|e| failed(models_dir, &e))?;
        let lock = lock_within(models_dir, PATIENCE)?;
        Ok(Self { scratch: Scratch::new(models_dir, lock)?, models_dir: models_dir.to_owned() })
    }

    /// The folder of a package of this name until it is published.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// Puts what was built in its place, whole and on stable storage. What is there with other weights or another card
    /// stays, unless `replace`.
    pub fn publish(self, package: &Package, replace: bool) -> Result<PathBuf, ImportError> {
        let (dir, target) = (self.dir(&package.identity.name), self.models_dir.join(&package.identity.name));
        for entry in fs::read_dir(&dir).map_err(|e| failed(&dir, &e))?.flatten() {
            File::open(entry.path()).and_then(|f| f.sync_all()).map_err(|e| failed(&entry.path(), &e))?;
        }
        files::sync_folder(&dir).map_err(|e| failed(&dir, &e))?;
        if fs::symlink_metadata(&target).is_err() {
            fs::rename(&dir, &target).map_err(|e| failed(&target, &e))?;
        } else {
            let what = match Package::load(&target) {
                Ok(there) if there.identity.weights == package.identity.weights => {
                    let same = is_same_card(&dir, &target);
                    (!same)
                        .then(|| format!("version {} with the same weights and another card", there.identity.version))
                }
                Ok(there) => Some(format!("version {} with other weights", there.identity.version)),
                Err(_) => Some("no valid package".to_owned()),
            };
            if let Some(what) = what.filter(|_| !replace) {
                return Err(ImportError::Kept { dir: target, what });
            }
            // What was there lies in the scratch folder then, and goes with it.
            match renameat_with(CWD, &dir, CWD, &target, RenameFlags::EXCHANGE) {
                // Some network file systems cannot.
                Err(rustix::io::Errno::INVAL) => {
                    swap(&dir, &target, &self.models_dir.join(format!("{BEFORE}{}", package.identity.name)))
                }
                other => other.map_err(Into::into),
            }
            .map_err(|e| failed(&target, &e))?;
        }
        files::sync_folder(&self.models_dir).map_err(|e| failed(&self.models_dir, &e))?;
        Ok(target)
    }
}

/// A folder that goes with its owner, and the lock on `models.dir` that only one owner holds.
#[derive(Debug)]
struct Scratch(PathBuf, #[allow(dead_code)] File);

impl Scratch {
    fn new(models_dir: &Path, lock: File) -> Result<Self, ImportError> {
        // What a killed one left behind.
        for entry in fs::read_dir(models_dir).map_err(|e| failed(models_dir, &e))?.flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if name.starts_with(SCRATCH) {
                let _ = fs::remove_dir_all(path);
            } else if let Some(name) = name.strip_prefix(BEFORE) {
                let target = models_dir.join(name);
                match fs::symlink_metadata(&target) {
                    Ok(_) => drop(fs::remove_dir_all(path)),
                    // Nothing has taken its place.
                    Err(_) => fs::rename(path, &target).map_err(|e| failed(&target, &e))?,
                }
            }
        }
        let folder = models_dir.join(format!("{SCRATCH}{}", uuid::Uuid::new_v4()));
        make_folder(&folder)?;
        Ok(Self(folder, lock))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Keeps other changes of packages out for as long as the file is open.
pub fn lock(models_dir: &Path) -> Result<File, ImportError> {
    lock_within(models_dir, Duration::ZERO)
}

/// As [`lock`]; another change has so long to end.
fn lock_within(models_dir: &Path, patience: Duration) -> Result<File, ImportError> {
    let lock = File::open(models_dir).map_err(|e| ImportError::File {
        path: models_dir.to_owned(),
        reason: format!("{e}: models.dir is to be a folder; make it, or correct the key"),
    })?;
    let began = Instant::now();
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if began.elapsed() >= patience {
            return Err(ImportError::Busy(models_dir.to_owned()));
        }
        std::thread::sleep(PATIENCE_STEP);
    }
    Ok(lock)
}

/// Two renames in place of one: what is in the target's place waits aside, and comes back if nothing follows it.
fn swap(dir: &Path, target: &Path, aside: &Path) -> std::io::Result<()> {
    fs::rename(target, aside)?;
    if let Err(error) = fs::rename(dir, target) {
        // Where this fails too, whoever comes next puts it back.
        let _ = fs::rename(aside, target);
        return Err(error);
    }
    // The package is in its place: what cannot be removed goes with the next change.
    let _ = fs::remove_dir_all(aside);
    Ok(())
}

/// Whether two packages have the same card to the byte: somebody may have changed one, or written golden values.
fn is_same_card(a: &Path, b: &Path) -> bool {
    let card = |dir: &Path| files::read(&dir.join("model.toml"), CARD_BYTES_MAX).ok();
    card(a).is_some_and(|text| Some(text) == card(b))
}

fn failed(path: &Path, error: &std::io::Error) -> ImportError {
    ImportError::File { path: path.to_owned(), reason: error.to_string() }
}

fn not_weights(path: &Path, found: &'static str, remedy: &'static str) -> ImportError {
    ImportError::NotWeights { path: path.to_owned(), found, remedy }
}

fn make_folder(path: &Path) -> Result<(), ImportError> {
    fs::create_dir(path).map_err(|e| failed(path, &e))
}

fn read_card(path: &Path) -> Result<String, ImportError> {
    regular(path)?;
    let bytes = files::read(path, CARD_BYTES_MAX).map_err(|e| failed(path, &e))?;
    String::from_utf8(bytes).map_err(|_| ImportError::File { path: path.to_owned(), reason: "is not text".to_owned() })
}

/// Opening a pipe or a device could wait for ever.
fn regular(path: &Path) -> Result<(), ImportError> {
    let meta = fs::metadata(path).map_err(|e| failed(path, &e))?;
    if meta.is_file() {
        return Ok(());
    }
    Err(ImportError::File { path: path.to_owned(), reason: "is no regular file".to_owned() })
}

/// Copies a file and makes the copy durable; the SHA-256 is of what was written.
fn copy(from: &Path, to: &Path, bytes_max: u64) -> Result<Digest, ImportError> {
    regular(from)?;
    let mut source = File::open(from).map_err(|e| failed(from, &e))?.take(bytes_max + 1);
    let mut copy = File::create(to).map_err(|e| failed(to, &e))?;
    let (mut hasher, mut buffer, mut length) = (sha2::Sha256::new(), vec![0; 1 << 20], 0_u64);
    loop {
        let n = source.read(&mut buffer).map_err(|e| failed(from, &e))?;
        if n == 0 {
            break;
        }
        length += n as u64;
        hasher.update(&buffer[..n]);
        copy.write_all(&buffer[..n]).map_err(|e| failed(to, &e))?;
    }
    if length > bytes_max {
        let reason = format!("is larger than {bytes_max} bytes");
        return Err(ImportError::File { path: from.to_owned(), reason });
    }
    copy.sync_all().map_err(|e| failed(to, &e))?;
    Ok(Digest::from_hash(&hasher.finalize()))
}

/// Copies the files that the card names beside the weights; whether they are what it says is `manifest`'s to judge.
fn bring_sidecars(card: &str, from: &Path, to: &Path) -> Result<(), ImportError> {
    let table: toml::Table = toml::from_str(card).unwrap_or_default();
    for section in ["golden", "ood"] {
        let Some(file) = table.get(section).and_then(|s| s.get("file")).and_then(toml::Value::as_str) else { continue };
        // A path with folders is refused by the card's check, for want of the file.
        if let Ok(path) = files::inside(from, file)
            && !file.contains('/')
        {
            copy(&path, &to.join(file), WEIGHTS_BYTES_MAX)?;
        }
    }
    Ok(())
}

/// Whether the place of the package is free; what lies there else.
fn is_free(target: &Path, version: &str, sha256: &Digest) -> Result<(), ImportError> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    let taken = |what: String| Err(ImportError::Taken { dir: target.to_owned(), what });
    match Package::load(target) {
        Ok(there) if there.identity.version == version && there.identity.weights == *sha256 => {
            let (name, version) = (there.identity.name, there.identity.version);
            Err(ImportError::Present { name, version })
        }
        Ok(there) if there.identity.version == version => {
            taken(format!("version {version} with other weights, {}", there.identity.weights.short()))
        }
        Ok(there) => taken(format!("version {}", there.identity.version)),
        Err(_) => taken("no valid package".to_owned()),
    }
}

/// Reports tell models apart by their Device UIDs.
fn has_its_own_uid(package: &Package, models_dir: &Path) -> Result<(), ImportError> {
    for entry in fs::read_dir(models_dir).map_err(|e| failed(models_dir, &e))?.flatten() {
        let Ok(text) = files::read(&entry.path().join("model.toml"), CARD_BYTES_MAX) else { continue };
        let given = files::given(&String::from_utf8_lossy(&text)).unwrap_or_default();
        if given.device_uid.as_deref() == Some(package.identity.device_uid.as_str()) {
            let other = entry.file_name().to_string_lossy().into_owned();
            return Err(ImportError::TwinUid { uid: package.identity.device_uid.clone(), other });
        }
    }
    Ok(())
}

/// What a file is by its first bytes and, where it is a zip, by the names in its table of contents.
fn kind(path: &Path) -> Result<Kind, ImportError> {
    regular(path)?;
    let error = |e: std::io::Error| failed(path, &e);
    let mut file = File::open(path).map_err(error)?;
    let length = file.metadata().map_err(error)?.len();
    let mut head = Vec::new();
    (&mut file).take(16).read_to_end(&mut head).map_err(error)?;
    if head.starts_with(b"PK\x03\x04") {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).map_err(error)?;
        file.take(TAIL_BYTES).read_to_end(&mut tail).map_err(error)?;
        let has = |name: &[u8]| entries(&tail).any(|entry| entry.ends_with(name));
        return Ok(match (has(b"/constants.pkl"), has(b"/data.pkl")) {
            (true, _) => Kind::TorchScript,
            (false, true) => Kind::Pickle,
            (false, false) => Kind::Unknown,
        });
    }
    // Pickles begin with a protocol number; PyTorch's before 1.6 are several in a row.
    if matches!(head.as_slice(), [0x80, 2..=5, ..]) {
        return Ok(Kind::Pickle);
    }
    // Length of the header in eight bytes, then the header, which is JSON.
    let header = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let is_safetensors = header.is_some_and(|n| n > 1 && n < length) && head.get(8) == Some(&b'{');
    Ok(if is_safetensors { Kind::Safetensors } else { Kind::Unknown })
}

/// Names in the central directory of a zip file (APPNOTE 4.3.12), as far as they lie within `tail`.
fn entries(tail: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memmem::find_iter(tail, b"PK\x01\x02").filter_map(move |at| {
        let length = tail.get(at + 28..at + 30)?;
        tail.get(at + 46..at + 46 + usize::from(u16::from_le_bytes([length[0], length[1]])))
    })
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
