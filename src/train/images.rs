//! The images of a data set, decoded once: in memory, or in a file without a name where they are too many.
//!
//! One channel of f32 for each, `low..high` of the contract; mean, deviation and further channels are the loader's. The
//! file belongs to this process and goes with it. Neighbours: `data` fills it, `loader` reads.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};

/// Images of one size, numbered from 0.
#[derive(Debug)]
pub struct Images {
    /// Values of an image.
    length: usize,
    count: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<f32>),
    File(File),
}

/// Takes images one after the other.
#[derive(Debug)]
pub struct Collector<'a> {
    images: Images,
    bytes_max: u64,
    spill_dir: &'a Path,
}

impl Images {
    /// Images of so many values each; beyond `bytes_max` all of them go to a file in `spill_dir`.
    pub fn collect(length: usize, bytes_max: u64, spill_dir: &Path) -> Collector<'_> {
        let images = Self { length, count: 0, place: Place::Memory(Vec::new()) };
        Collector { images, bytes_max, spill_dir }
    }

    /// Appends the values of an image to `values`.
    pub fn read(&self, number: usize, values: &mut Vec<f32>) -> anyhow::Result<()> {
        ensure!(number < self.count, "there is no image {number}");
        let at = number * self.length;
        match &self.place {
            Place::Memory(all) => values.extend_from_slice(&all[at..at + self.length]),
            Place::File(file) => {
                let mut bytes = vec![0; 4 * self.length];
                file.read_exact_at(&mut bytes, 4 * at as u64).context("decoded images cannot be read back")?;
                values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
        }
        Ok(())
    }
}

impl Collector<'_> {
    pub fn push(&mut self, values: &[f32]) -> anyhow::Result<()> {
        let images = &mut self.images;
        ensure!(values.len() == images.length, "an image has {} values, not {}", values.len(), images.length);
        if let Place::Memory(all) = &images.place
            && 4 * (all.len() + values.len()) as u64 > self.bytes_max
        {
            let file = unnamed(self.spill_dir)
                .with_context(|| format!("no file for decoded images in {}", self.spill_dir.display()))?;
            write(&file, all)?;
            images.place = Place::File(file);
        }
        match &mut images.place {
            Place::Memory(all) => all.extend_from_slice(values),
            Place::File(file) => write(file, values)?,
        }
        images.count += 1;
        Ok(())
    }

    pub fn finish(self) -> Images {
        self.images
    }
}

fn unnamed(dir: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("images-{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn write(mut file: &File, values: &[f32]) -> anyhow::Result<()> {
    // A piece at a time: what is put away is as much as memory may hold.
    for piece in values.chunks(1 << 18) {
        let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all(&bytes).context("decoded images cannot be written; is the disk full?")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_read_back_the_same_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes_max, in_memory) in [(1000, true), (100, false), (0, false)] {
            let mut collector = Images::collect(6, bytes_max, dir.path());
            let image = |i: usize| (0..6).map(|v| (i * 6 + v) as f32 / 7.0).collect::<Vec<f32>>();
            (0..9).for_each(|i| collector.push(&image(i)).unwrap());
            assert!(collector.push(&[1.0]).is_err());
            let images = collector.finish();
            assert_eq!((matches!(images.place, Place::Memory(_)), images.count), (in_memory, 9));
            for i in [8, 0, 4] {
                let mut values = Vec::new();
                images.read(i, &mut values).unwrap();
                assert_eq!(values, image(i));
            }
            assert!(images.read(9, &mut Vec::new()).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }
}
