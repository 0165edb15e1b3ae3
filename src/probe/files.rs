//! Files of a run's folder: whole or not there, whatever ends the process that writes them.
//!
//! What is being written lies beside its place under a name that no other process has, even in another container, and is
//! locked; what nobody has locked is of a process that ended. Left out: what is in the files.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use uuid::Uuid;

/// Of a file that is being written, after its name and an identifier.
const ASIDE: &str = "tmp";
/// Folders below that of a run in which something is written.
const DEPTH: usize = 3;

/// Gives a file its place when `fill` has written it and it is on stable storage. Makes its folder.
pub(super) fn place(path: &Path, fill: impl FnOnce(&File) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let placed = || {
        fs::create_dir_all(folder)?;
        let (aside, file) = aside(path)?;
        let filled = fill(&file).and_then(|()| Ok(file.sync_all()?)).and_then(|()| Ok(fs::rename(&aside, path)?));
        if filled.is_err() {
            let _ = fs::remove_file(&aside);
        }
        filled?;
        anyhow::Ok(File::open(folder)?.sync_all()?)
    };
    placed().with_context(|| format!("{} cannot be written", path.display()))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    place(path, |mut file| Ok(file.write_all(bytes)?))
}

/// A new locked file beside a path. Where there are no locks, none is found abandoned either.
fn aside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    loop {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.{ASIDE}", Uuid::new_v4().simple()));
        let aside = path.with_file_name(name);
        let file = File::create_new(&aside)?;
        let _ = file.lock();
        // Before it was locked it may have been taken for abandoned.
        if fs::metadata(&aside).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())) {
            return Ok((aside, file));
        }
    }
}

/// Whether the file is one that was being written.
pub(super) fn is_aside(path: &Path) -> bool {
    let identifier = path.file_stem().map(Path::new).and_then(Path::extension).and_then(|text| text.to_str());
    path.extension().is_some_and(|e| e == ASIDE) && identifier.is_some_and(|text| Uuid::try_parse(text).is_ok())
}

/// Removes what processes that ended were writing, in the folder of a run and those below.
pub(super) fn clean(folder: &Path) {
    clean_to(folder, DEPTH);
}

fn clean_to(folder: &Path, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        if depth > 0 && kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            clean_to(&path, depth - 1);
        }
        let is_own = kind.is_ok_and(|kind| kind.is_file()) && is_aside(&path);
        if is_own && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            // Whoever still needs it makes another one.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_place_whole_and_what_was_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers/a.json");
        write(&path, b"whole").unwrap();
        let failed = place(&path, |mut file| {
            file.write_all(b"half")?;
            anyhow::bail!("the process ends")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let names = || {
            let entries = fs::read_dir(folder.path().join("answers")).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["a.json"]);

        let (abandoned, file) = aside(&path).unwrap();
        drop(file);
        let (running, _file) = aside(&path).unwrap();
        let others = folder.path().join("answers/notes.tmp");
        fs::write(&others, "somebody's").unwrap();
        clean(folder.path());
        assert!(!abandoned.exists() && running.exists() && others.exists(), "{:?}", names());
    }
}
