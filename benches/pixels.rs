//! One image in three ways: the decoder alone, decode to tensor in one process, and through a decode worker.
//!
//! `benches/run pixels` calls it beside other readers (`pixels.py`). Prints seconds (medians of five after a warm-up)
//! and the contract as JSON; with `--scaling`, how many times as many images two workers finish as one. Arguments: the
//! file; whatever follows is ignored.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sidelight::config;
use sidelight::domain::Contract;
use sidelight::pixels::{Frames, Limits, Workers, normalise_file, stored_values_file};

const ROUNDS: usize = 5;
/// Images one after another, where one worker is compared with two.
const SERIES: usize = 4;

fn main() {
    let Some(path) = std::env::args_os().skip(1).find(|a| !a.to_string_lossy().starts_with("--")).map(PathBuf::from)
    else {
        println!("usage: pixels FILE; `benches/run pixels` makes the files and compares");
        return;
    };
    let contracts = [Contract::preset("imagenet-rgb", 224).expect("a preset")];
    let (limits, frames) = (Limits::default(), Frames::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let settings =
        config::Pixels { workers: 2, timeout: Duration::from_secs(60), memory_max: 1 << 30, samples_max: 1 << 28 };
    let workers = Workers::start(&settings, env!("CARGO_BIN_EXE_sidelight").into());
    let image = || async {
        black_box(workers.normalise(&path, &contracts, frames).await.expect("an image that can be normalised"));
    };
    let series = || async {
        for _ in 0..SERIES {
            image().await;
        }
    };
    // both workers have started, and have seen an image
    runtime.block_on(async { tokio::join!(series(), series()) });
    if std::env::args().any(|argument| argument == "--scaling") {
        let one = median(|| runtime.block_on(series())) / SERIES as f64;
        let two = median(|| {
            runtime.block_on(async { tokio::join!(series(), series()) });
        }) / (2 * SERIES) as f64;
        println!("{{\"scaling\": {}}}", one / two);
        return;
    }
    let worker = median(|| runtime.block_on(image()));
    let decode = median(|| {
        black_box(stored_values_file(&path, &limits).expect("an image that can be decoded"));
    });
    let tensor = median(|| {
        black_box(normalise_file(&path, &contracts, frames, &limits).expect("an image that can be normalised"));
    });
    let contract = serde_json::to_string(&contracts[0]).expect("a contract");
    println!("{{\"decode\": {decode}, \"tensor\": {tensor}, \"worker\": {worker}, \"contract\": {contract}}}");
}

fn median(mut action: impl FnMut()) -> f64 {
    action();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            action();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}
