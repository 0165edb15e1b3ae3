//! Mutations of every corpus file, and of an image in each of seven encodings, through real workers: each costs an
//! answer or a refusal, in time and in memory.
//!
//! A copy of the file is changed in place and changed back, so that megabytes are not written thousands of times.
//! Faults go where parsers and decoders decide something: the data set before the pixels, length fields, and the
//! first bytes of the pixel data and of its fragments; a few go anywhere. Half of the mutants keep their structure and
//! are wrong only in what a decoder sees. The same every time. `SIDELIGHT_MUTATIONS=1000` makes as many of each file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sidelight::pixels::{Frames, Normalised, Workers};

use super::hostile::{mapped_by_program, originals};
use super::locked::{named_exe, processes, status};
use super::*;

/// Of each file, unless `SIDELIGHT_MUTATIONS` says how many.
const MUTATIONS: u64 = 40;

/// A copy of a file, and where it is worth hitting.
struct Target {
    /// Of the original.
    name: String,
    path: PathBuf,
    file: File,
    original: Vec<u8>,
    /// The data set up to the pixel data.
    header: Range<usize>,
    /// Offsets of length fields of explicit VR in the header.
    lengths: Vec<usize>,
    /// Item heads and the first bytes of what they hold, the first of them the pixel data element's.
    heads: Vec<Range<usize>>,
    /// What decoders see: the same without the heads.
    inner: Vec<Range<usize>>,
}

impl Target {
    fn new(folder: &Path, number: usize, source: &Path) -> Self {
        let original = std::fs::read(source).expect("a corpus file");
        let path = write(folder, &format!("mutant-{number}"), &original);
        let file = File::options().write(true).open(&path).expect("a file of our own");
        let tag = |bytes: &[u8]| matches!(bytes, [0xE0, 0x7F, 0x08..=0x10, 0] | [0x7F, 0xE0, 0, 0x08..=0x10]);
        let pixels = original.windows(4).rposition(tag).unwrap_or(original.len());
        let header = 132.min(pixels)..pixels;
        // what looks like an explicit VR; some have two bytes between it and the length
        let length = |at: usize| match original.get(at..at + 2)? {
            b"OB" | b"OW" | b"SQ" | b"UN" => Some(at + 4),
            vr if vr.iter().all(u8::is_ascii_uppercase) => Some(at + 2),
            _ => None,
        };
        let lengths = header.clone().skip(4).filter_map(length).filter(|at| *at < pixels).collect();
        let heads = heads(&original, pixels);
        // behind the head of an item or, where there is none, of the pixel data element
        let (bodies, head) = if heads.len() > 1 { (&heads[1..], 8) } else { (&heads[..], 12) };
        let inner = bodies.iter().map(|body| (body.start + head).min(body.end)..body.end);
        let inner = inner.filter(|body| !body.is_empty()).collect();
        let name = source.file_name().expect("a file").to_string_lossy().into_owned();
        Self { name, path, file, original, header, lengths, heads, inner }
    }

    /// Makes one to four faults; the answer is what was overwritten.
    fn mutate(&self, rng: &mut ChaCha8Rng) -> Vec<Range<usize>> {
        let mut changed = Vec::new();
        let inside = !self.inner.is_empty() && rng.random();
        for _ in 0..rng.random_range(1..=4) {
            let at = if inside { self.inside(rng) } else { self.place(rng) };
            let rest = self.original.len() - at;
            let bytes = match rng.random_range(0..if inside { 5 } else { 8 }) {
                0 | 1 => vec![rng.random()],
                2 | 3 => vec![self.original[at] ^ 1 << rng.random_range(0..8)],
                4 => [u32::MAX, u32::MAX - 1, 0, 1, 0x8000_0000, rng.random()][rng.random_range(0..6)]
                    .to_le_bytes()
                    .into(),
                // a part of the file once more, in the place of another
                5 => {
                    let from = rng.random_range(0..self.original.len());
                    self.original[from..(from + rng.random_range(1..200)).min(self.original.len())].to_vec()
                }
                // the rest moves up or down by a few bytes, for as far as headers and short files go
                6 => {
                    let end = (at + 65_536).min(self.original.len());
                    let (gap, moved) = (rng.random_range(1..50), self.original[at..end].to_vec());
                    if rng.random() {
                        [&moved[..gap.min(moved.len())], &moved].concat()
                    } else {
                        moved[gap.min(moved.len())..].to_vec()
                    }
                }
                _ => {
                    self.file.set_len(at as u64).expect("a shorter file");
                    changed.push(at..self.original.len());
                    break;
                }
            };
            let end = at + bytes.len().min(rest);
            self.file.write_all_at(&bytes[..end - at], at as u64).expect("a written file");
            changed.push(at..end);
        }
        changed
    }

    /// Where a fault goes.
    fn place(&self, rng: &mut ChaCha8Rng) -> usize {
        match rng.random_range(0..10) {
            0..=3 if !self.header.is_empty() => rng.random_range(self.header.clone()),
            4..=5 if !self.lengths.is_empty() => self.lengths[rng.random_range(0..self.lengths.len())],
            6..=8 if !self.heads.is_empty() => {
                let head = rng.random_range(0..self.heads.len());
                rng.random_range(self.heads[head].clone())
            }
            _ => rng.random_range(0..self.original.len()),
        }
    }

    /// Where a fault goes that only a decoder sees.
    fn inside(&self, rng: &mut ChaCha8Rng) -> usize {
        let inner = rng.random_range(0..self.inner.len());
        let body = self.inner[inner].clone();
        // beyond the first bytes, too: there the entropy-coded data lies, of the last fragment to the end of the file
        if rng.random_range(0..4) == 0 {
            rng.random_range(body.start..self.original.len())
        } else {
            rng.random_range(body)
        }
    }

    fn restore(&self, changed: &[Range<usize>]) {
        for range in changed {
            self.file.write_all_at(&self.original[range.clone()], range.start as u64).expect("a written file");
        }
    }
}

/// The first bytes of the pixel data element and of its first items.
fn heads(bytes: &[u8], pixels: usize) -> Vec<Range<usize>> {
    let (mut starts, mut item) = (vec![pixels], pixels + 12);
    while starts.len() < 9
        && let Some([0xFE, 0xFF, 0, 0xE0, length @ ..]) = bytes.get(item..item + 8)
    {
        starts.push(item);
        item += 8 + u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    }
    starts.into_iter().map(|start| start..(start + 200).min(bytes.len())).filter(|head| !head.is_empty()).collect()
}

/// What came of all mutations.
#[derive(Debug, Default)]
struct Tally {
    outcomes: BTreeMap<String, u64>,
    /// What ended workers.
    deaths: BTreeSet<String>,
    slowest: (Duration, String),
    /// Of any worker: resident memory and address space, bytes.
    resident_max: u64,
    mapped_max: u64,
}

struct Attack {
    workers: Workers,
    exe: PathBuf,
    settings: config::Pixels,
    good: PathBuf,
    expected: Normalised,
    tally: Mutex<Tally>,
}

impl Attack {
    async fn on(&self, target: &Target, number: u64, mutations: u64) {
        let name = target.name.as_str();
        for n in 0..mutations {
            // of its own, so that fewer mutations are the first of more
            let mut rng = ChaCha8Rng::seed_from_u64(number << 32 | n);
            let changed = target.mutate(&mut rng);
            let started = Instant::now();
            let answer = match n % 8 {
                0 => self.workers.read_header(&target.path).await.map(|_| ()),
                1 => self.workers.normalise(&target.path, &contracts(), Frames::All { max: 4 }).await.map(|_| ()),
                _ => self.workers.normalise(&target.path, &contracts(), Frames::First).await.map(|_| ()),
            };
            let took = started.elapsed();
            target.restore(&changed);
            let refusal = answer.as_ref().err();
            assert!(took < self.settings.timeout * 2, "mutation {n} of {name} took {took:?}: {refusal:?}");
            assert!(refusal.is_none_or(|r| !r.detail.is_empty()), "mutation {n} of {name}");
            let mut tally = self.tally.lock().expect("no panic");
            assert_ne!(refusal.map(|r| r.code), Some(RefusalCode::WorkerUnavailable), "mutation {n} of {name}");
            if let Some(refusal) = refusal.filter(|r| r.code == RefusalCode::WorkerDied) {
                tally.deaths.insert(format!("{}: mutation {n} of {name}", refusal.detail));
            }
            if took > tally.slowest.0 {
                tally.slowest = (took, format!("mutation {n} of {name}: {refusal:?}"));
            }
            *tally.outcomes.entry(refusal.map_or("answered".into(), |r| r.code.to_string())).or_default() += 1;
            if n % 20 == 19 || n + 1 == mutations {
                self.look_at_memory(&mut tally);
            }
        }
        let answer = self.workers.normalise(&self.good, &contracts(), Frames::default()).await;
        assert!(answer.as_ref() == Ok(&self.expected), "a sound image after {name}: {:?}", answer.err());
    }

    fn look_at_memory(&self, tally: &mut Tally) {
        for process in processes(&self.exe) {
            let peak = |key| status(&process, key).unwrap_or_default() * 1024;
            tally.resident_max = tally.resident_max.max(peak("VmHWM"));
            tally.mapped_max = tally.mapped_max.max(peak("VmPeak"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_cost_refusals_and_nothing_else() {
    let mutations = std::env::var("SIDELIGHT_MUTATIONS").map_or(MUTATIONS, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = config::Pixels { workers: 2, memory_max: 512 << 20, timeout: Duration::from_secs(20), ..settings() };
    let exe = named_exe(folder.path());
    let workers = Workers::start(&settings, exe.clone());
    wait_for(|| workers.protections());
    let program = mapped_by_program(&exe, settings.memory_max);
    let good = write(folder.path(), "good", &sound(64, 64));
    let expected = workers.normalise(&good, &contracts(), Frames::default()).await.expect("a sound image");
    let attack = Attack { workers, exe, settings, good, expected, tally: Mutex::default() };
    attack.look_at_memory(&mut attack.tally.lock().expect("no panic"));
    let resident_idle = attack.tally.lock().expect("no panic").resident_max;
    let made = originals().into_iter().map(|(name, bytes)| write(folder.path(), name, &bytes));
    let mut files = crate::support::dicom_files(&crate::support::shared().join("corpus"));
    assert!(files.len() >= 73, "{} corpus files", files.len());
    files.extend(made);
    let targets: Vec<Target> = files.iter().enumerate().map(|(i, file)| Target::new(folder.path(), i, file)).collect();
    for (target, file) in targets.iter().zip(&files) {
        let limits = Limits::from(&attack.settings);
        let expected = normalise_file(file, &contracts(), Frames::First, &limits);
        assert!(
            attack.workers.normalise(&target.path, &contracts(), Frames::First).await == expected,
            "{}",
            file.display()
        );
    }

    let started = Instant::now();
    let (attack, targets) = (Arc::new(attack), Arc::new(targets));
    // the largest first, so that none of them is left to one worker at the end
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(targets[*i].original.len()));
    let queue = Arc::new(Mutex::new(order.into_iter()));
    let attackers: Vec<_> = (0..2)
        .map(|_| {
            let (attack, targets, queue) = (attack.clone(), targets.clone(), queue.clone());
            tokio::spawn(async move {
                let next = || queue.lock().expect("no panic").next();
                while let Some(i) = next() {
                    attack.on(&targets[i], i as u64, mutations).await;
                }
            })
        })
        .collect();
    for attacker in attackers {
        attacker.await.expect("an attacker that met every expectation");
    }
    for (target, file) in targets.iter().zip(&files) {
        assert!(std::fs::read(&target.path).expect("a copy") == target.original, "{} was put back", file.display());
    }
    let tally = attack.tally.lock().expect("no panic");
    let (memory_max, took) = (attack.settings.memory_max, started.elapsed());
    println!("{mutations} mutations of each of {} files in {took:.1?}: {tally:#?}", files.len());
    println!("{} MiB resident when idle, {} MiB mapped by the program", resident_idle >> 20, program >> 20);
    assert!(tally.mapped_max <= program + memory_max, "beyond the limit: {tally:?}");
    assert!(tally.resident_max <= resident_idle + memory_max, "beyond the limit: {tally:?}");
    assert_eq!(tally.outcomes.values().sum::<u64>(), mutations * files.len() as u64);
    assert!(tally.outcomes.len() > 3, "mutations that hardly differ: {tally:?}");
}
