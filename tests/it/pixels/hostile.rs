//! Good images beside mutated ones, through real workers. `mutations` looks at what the mutated ones cost.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sidelight::pixels::{Frames, Workers};

use super::locked::{processes, status};
use super::*;

/// Sound images of several transfer syntaxes.
pub fn originals() -> Vec<(&'static str, Vec<u8>)> {
    let mut rle = vec![0; 64];
    (rle[0], rle[4]) = (2, 64);
    // 4096 pixels: 32 runs of 128 equal bytes in each of two segments
    let segment: Vec<u8> = (0..32).flat_map(|run| [0x81, run]).collect();
    rle[8..12].copy_from_slice(&(64 + segment.len() as u32).to_le_bytes());
    rle.extend([segment.clone(), segment].concat());
    vec![
        ("explicit", sound(64, 64)),
        ("rle", encapsulated(RLE, &rle)),
        ("deflated", encoded(&sound(64, 64), &["dcmconv", "+td"])),
        ("jpeg", encoded(&sound_8_bit(), &["dcmcjpeg", "+eb"])),
        ("jpeg-lossless", encoded(&sound(64, 64), &["dcmcjpeg", "+el"])),
        (
            "jpeg-2000",
            std::fs::read(crate::support::shared().join("corpus/MR/emri_small_jpeg_2k_lossless.dcm"))
                .expect("the corpus"),
        ),
        ("jpeg-ls", encoded(&sound(64, 64), &["dcmcjpls", "+el"])),
    ]
}

fn sound_8_bit() -> Vec<u8> {
    let mut bytes = image(64, 64, 8, "1 ", EXPLICIT);
    let at = bytes.windows(8).position(|w| w == [0x28, 0, 0, 1, b'U', b'S', 2, 0]).expect("bits allocated");
    bytes[at + 8] = 8;
    let pixels: Vec<u8> = (0..64 * 64).map(|i| (i % 251) as u8).collect();
    [bytes, element(0x7FE0_0010, "OB", &pixels)].concat()
}

/// The image in another transfer syntax, by dcmtk.
pub fn encoded(bytes: &[u8], tool: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (plain, out) = (write(folder.path(), "plain.dcm", bytes), folder.path().join("out.dcm"));
    let done = Command::new(tool[0]).args(&tool[1..]).arg(plain).arg(&out).output().expect("dcmtk is installed");
    assert!(done.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(out).expect("an encoded image")
}

/// One to four faults. Half of the mutants are wrong anywhere and in any way: bytes, truncation, lengths, parts that
/// are repeated or left out. The other half keeps its structure and is wrong in what a decoder sees.
fn mutate(original: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let pixels = original.windows(4).rposition(|w| w == [0xE0, 0x7F, 0x10, 0]).map(|at| at + 32);
    let (start, kinds) = match pixels {
        Some(start) if start + 16 < bytes.len() && rng.random() => (start, 3),
        _ => (132, 6),
    };
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(start..bytes.len());
        match rng.random_range(0..kinds) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => {
                let end = (at + 4).min(bytes.len());
                let length = [u32::MAX, u32::MAX - 1, 0, 1, 0x8000_0000, rng.random()][rng.random_range(0..6)];
                bytes[at..end].copy_from_slice(&length.to_le_bytes()[..end - at]);
            }
            3 => bytes.truncate(at.max(start + 8)),
            4 => {
                let end = (at + rng.random_range(1..200)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let end = (at + rng.random_range(1..50)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
        if bytes.len() < start + 16 {
            break;
        }
    }
    bytes
}

#[tokio::test]
async fn originals_are_what_they_say() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let workers = Workers::start(&settings(), EXE.into());
    for (name, bytes) in originals() {
        let path = write(folder.path(), name, &bytes);
        let expected = normalise_file(&path, &contracts(), Frames::default(), &Limits::from(&settings()));
        assert!(expected.is_ok(), "{name}: {expected:?}");
        assert!(workers.normalise(&path, &contracts(), Frames::default()).await == expected, "{name}");
    }
}

#[tokio::test]
async fn good_images_are_answered_beside_hostile_ones() {
    const IMAGES: usize = 40;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = write(folder.path(), "good", &sound(500, 500));
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let originals = originals();
    let hostile: Vec<PathBuf> = (0..50)
        .map(|n| write(folder.path(), &format!("mutant-{n}"), &mutate(&originals[n % originals.len()].1, &mut rng)))
        .collect();
    let workers = Workers::start(&settings(), EXE.into());
    let mut rates = Vec::new();
    for beside in [false, true] {
        let aside = (workers.clone(), hostile.clone());
        let attack = beside.then(|| {
            tokio::spawn(async move {
                let mut asked = 0u32;
                for path in aside.1.iter().cycle() {
                    // whatever comes of it
                    let _ = aside.0.normalise(path, &contracts(), Frames::default()).await;
                    asked += 1;
                    if asked == 10_000 {
                        break;
                    }
                }
            })
        });
        let started = Instant::now();
        for _ in 0..IMAGES {
            let answer = workers.normalise(&good, &contracts(), Frames::default()).await;
            assert!(answer.is_ok(), "{answer:?}");
        }
        rates.push(IMAGES as f64 / started.elapsed().as_secs_f64());
        if let Some(attack) = attack {
            attack.abort();
        }
    }
    println!("{:.1} good images per second alone, {:.1} beside hostile ones", rates[0], rates[1]);
}

/// Address space of the program itself: what a fresh worker's limit leaves beside its grant, which is what it maps.
pub fn mapped_by_program(exe: &Path, memory_max: u64) -> u64 {
    let (limit, mapped) = wait_for(|| {
        processes(exe).iter().find_map(|process| {
            let limits = std::fs::read_to_string(process.join("limits")).ok()?;
            let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
            // `unlimited` until it is locked in
            let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some((limit, status(process, "VmSize")? * 1024))
        })
    });
    let program = limit - memory_max;
    // the filter's compiler and the first message may have mapped a little more since the limit was set
    assert!(mapped.abs_diff(program) < 8 << 20, "limit {limit}, mapped {mapped}");
    program
}
