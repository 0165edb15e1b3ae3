//! Files of a package: found within its folder, read within limits, written durably, pinned in its card.
//!
//! Neighbours: `manifest` and `golden` read, `import` writes. Left out: what is in the files.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::Digest as _;
use toml::Spanned;

use crate::domain::Digest;

/// Weights of several billion parameters are no image classifier's.
pub(super) const WEIGHTS_BYTES_MAX: u64 = 8 << 30;
/// A model card is some screens of text.
pub(super) const CARD_BYTES_MAX: u64 = 1 << 20;

/// A file of the package in `dir` by its path in the card, or what is wrong with the path.
pub(super) fn inside(dir: &Path, file: &str) -> Result<PathBuf, String> {
    let relative = Path::new(file);
    if file.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(format!("{file:?} leaves the package folder"));
    }
    let path = dir.join(relative);
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let real = path.canonicalize().map_err(unreadable)?;
    if !real.starts_with(dir.canonicalize().map_err(unreadable)?) {
        return Err(format!("{file:?} is a link out of the package folder"));
    }
    if !real.is_file() {
        return Err(format!("{file:?} is no regular file"));
    }
    Ok(path)
}

/// SHA-256 of a file of at most `bytes_max`.
pub(super) fn hash(path: &Path, bytes_max: u64) -> io::Result<Digest> {
    let mut hasher = sha2::Sha256::new();
    let read = io::copy(&mut File::open(path)?.take(bytes_max + 1), &mut hasher)?;
    if read > bytes_max {
        return Err(io::Error::other(format!("is larger than {bytes_max} bytes")));
    }
    Ok(Digest::from_hash(&hasher.finalize()))
}

/// All of a file of at most `bytes_max`.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// A file that the card names beside its weights, with the card's hash; or the key that is wrong and what is.
pub(super) fn sidecar(
    dir: &Path,
    file: &str,
    sha256: &Digest,
    bytes_max: u64,
) -> Result<Vec<u8>, (&'static str, String)> {
    let path = inside(dir, file).map_err(|problem| ("file", problem))?;
    let bytes = read(&path, bytes_max).map_err(|e| ("file", format!("{}: {e}", path.display())))?;
    match Digest::of(&bytes) {
        found if found == *sha256 => Ok(bytes),
        found => Err(("sha256", format!("{file} has {found}, the card says {sha256}"))),
    }
}

/// Puts a file in its place, whole and on stable storage, or leaves what was there.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut file = File::create(&aside)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fs::rename(&aside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Removes the package's files of this kind but the one that its card names now.
pub(super) fn remove_others(dir: &Path, start: &str, endings: &[&str], kept: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(start) && endings.iter().any(|ending| name.ends_with(ending)) && name != kept {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The values of a card that this program writes, where they stand in its text.
#[derive(Debug, Deserialize)]
struct Places {
    name: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    file: Option<Spanned<String>>,
    sha256: Option<Spanned<String>>,
    device_uid: Option<Spanned<String>>,
    golden: Option<GoldenPlaces>,
}

#[derive(Debug, Deserialize)]
struct GoldenPlaces {
    file: Spanned<String>,
    sha256: Spanned<String>,
}

/// What a card's text says for these keys already.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) device_uid: Option<String>,
}

pub(super) fn given(text: &str) -> Result<Given, toml::de::Error> {
    let places: Places = toml::from_str(text)?;
    let value = |spanned: Option<Spanned<String>>| spanned.map(Spanned::into_inner);
    Ok(Given {
        name: value(places.name),
        version: value(places.version),
        sha256: value(places.sha256),
        device_uid: value(places.device_uid),
    })
}

/// The card's text with these values, everything else as it was written, comments too.
pub(super) fn pinned(
    text: &str,
    name: &str,
    file: &str,
    sha256: &Digest,
    device_uid: &str,
) -> Result<String, toml::de::Error> {
    let places: Places = toml::from_str(text)?;
    let wanted = [
        ("name", places.name, name),
        ("file", places.file, file),
        ("sha256", places.sha256, sha256.as_str()),
        ("device_uid", places.device_uid, device_uid),
    ];
    let (mut changes, mut missing) = (Vec::new(), String::new());
    for (key, place, value) in wanted {
        match place {
            Some(place) => changes.push((place.span(), value)),
            None => missing.push_str(&format!("{key} = {}\n", quoted(value))),
        }
    }
    // Before the first table, where keys are still the card's own.
    let is_remark = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let start: usize = text.split_inclusive('\n').take_while(is_remark).map(str::len).sum();
    let mut text = replaced(text, changes);
    text.insert_str(start, &missing);
    Ok(text)
}

/// Names the file of golden values in a card.
pub(super) fn pin_golden(card: &Path, file: &str, sha256: &Digest) -> io::Result<()> {
    let text = String::from_utf8(read(card, CARD_BYTES_MAX)?).map_err(io::Error::other)?;
    let places: Places = toml::from_str(&text).map_err(io::Error::other)?;
    let text = match places.golden {
        Some(places) => replaced(&text, vec![(places.file.span(), file), (places.sha256.span(), sha256.as_str())]),
        None => {
            let (file, sha256) = (quoted(file), quoted(sha256.as_str()));
            format!("{}\n\n[golden]\nfile = {file}\nsha256 = {sha256}\n", text.trim_end())
        }
    };
    write_durably(card, text.as_bytes())
}

/// Puts a section at the end of a card, in the place of the one of that name, of which nothing stays but remarks on what
/// follows it.
pub(super) fn pin_section(card: &Path, name: &str, keys: &str) -> io::Result<()> {
    let text = String::from_utf8(read(card, CARD_BYTES_MAX)?).map_err(io::Error::other)?;
    let (mut kept, mut remarks, mut within) = (String::new(), String::new(), false);
    for line in text.split_inclusive('\n') {
        let start = line.trim_start();
        if start.starts_with('[') {
            within = start.trim_end() == format!("[{name}]");
            kept.push_str(&std::mem::take(&mut remarks));
        }
        match within {
            false => kept.push_str(line),
            true if start.starts_with('#') => remarks.push_str(line),
            // A remark before a key is on that key.
            true => remarks.clear(),
        }
    }
    kept.push_str(&remarks);
    let said = |text: &str| toml::from_str::<toml::Table>(text).map_err(io::Error::other);
    let mut expected = said(&text)?;
    expected.remove(name);
    if said(&kept).ok() != Some(expected) {
        let problem =
            format!("it is written otherwise than as a section [{name}]: remove {name} from it by hand, and again");
        return Err(io::Error::other(problem));
    }
    write_durably(card, format!("{}\n\n[{name}]\n{keys}", kept.trim_end()).as_bytes())
}

fn replaced(text: &str, mut changes: Vec<(Range<usize>, &str)>) -> String {
    changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for (range, value) in changes {
        text.replace_range(range, &quoted(value));
    }
    text
}

fn quoted(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_changes_the_values_and_nothing_else() {
        let digest = Digest::of(b"weights");
        let bare = "# a template\n\nversion = \"1\"   # raise it\n[input]\nname = \"own\"\nfile = \"no\"\n";
        let once = pinned(bare, "chest", "weights.pt", &digest, "2.25.7").unwrap();
        let lines =
            format!("name = \"chest\"\nfile = \"weights.pt\"\nsha256 = \"{digest}\"\ndevice_uid = \"2.25.7\"\n");
        assert_eq!(once, bare.replace("version", &format!("{lines}version")));
        let again = pinned(&once, "lung", "weights.safetensors", &digest, "2.25.8").unwrap();
        let expected = once.replace("chest", "lung").replace("weights.pt", "weights.safetensors");
        assert_eq!(again, expected.replace("2.25.7", "2.25.8"));
        assert_eq!(given(&again).unwrap().device_uid.as_deref(), Some("2.25.8"));
        assert!(given("name = 7").is_err() && pinned("[", "a", "b", &digest, "c").is_err());
    }

    #[test]
    fn golden_values_are_named_once() {
        let folder = tempfile::tempdir().unwrap();
        let card = folder.path().join("model.toml");
        fs::write(&card, "name = \"a\"\n").unwrap();
        pin_golden(&card, "golden-1.json", &Digest::of(b"1")).unwrap();
        pin_golden(&card, "golden-2.json", &Digest::of(b"2")).unwrap();
        let text = fs::read_to_string(&card).unwrap();
        assert_eq!(
            text,
            format!("name = \"a\"\n\n[golden]\nfile = \"golden-2.json\"\nsha256 = \"{}\"\n", Digest::of(b"2"))
        );
    }

    #[test]
    fn a_file_is_within_its_folder_and_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("package");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a"), b"12345").unwrap();
        fs::write(folder.path().join("b"), b"12345").unwrap();
        std::os::unix::fs::symlink("../b", dir.join("link")).unwrap();
        let digest = Digest::of(b"12345");
        let check = |file: &str, max, expected: &str| {
            let found = sidecar(&dir, file, &digest, max)
                .err()
                .map_or_else(String::new, |(key, problem)| format!("{key}: {problem}"));
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check("a", 5, "");
        check("a", 4, "larger than 4 bytes");
        check("link", 5, "file: \"link\" is a link out of the package folder");
        check("../b", 5, "leaves the package folder");
        check(".", 5, "leaves the package folder");
        check("c", 5, "cannot be read");
        fs::create_dir(dir.join("d")).unwrap();
        check("d", 5, "is no regular file");
        fs::write(dir.join("a"), b"54321").unwrap();
        check("a", 5, "sha256: a has");
    }
}
