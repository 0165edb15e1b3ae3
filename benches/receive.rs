//! The receiving role alone: the node's door and its store, without models, workers and reports.
//!
//! `benches/run ingest` starts it beside other servers, so that each is measured for the same work. Arguments: a port
//! and the data folder; the rest is in receive.toml. It takes objects durably as the node
//! does, and serves until it is killed.

//!
//! The rooms are compiled from their sources, so that libtorch, which the role does not use, is not in its memory.

// What the role does not use of them.
#![allow(dead_code, unused_imports, clippy::enum_variant_names)]

#[path = "../src/assemble.rs"]
mod assemble;
#[path = "../src/config/mod.rs"]
mod config;
#[path = "../src/dicom/mod.rs"]
mod dicom;
#[path = "../src/domain/mod.rs"]
mod domain;
#[path = "../src/receive/mod.rs"]
mod receive;
#[path = "../src/results/mod.rs"]
mod results;
#[path = "../src/store/mod.rs"]
mod store;
#[path = "../src/wire/mod.rs"]
mod wire;

use receive::Receiver;
use store::Store;
use tokio_util::sync::CancellationToken;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [port, folder] = &arguments[..] else {
        println!("usage: receive PORT FOLDER; `benches/run ingest` starts it and compares");
        return;
    };
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = [
        set("node.listen", &format!("127.0.0.1:{port}")),
        set("store.data_dir", folder),
        set("store.free_bytes_min", "0B"),
        set("store.free_percent_min", "0"),
    ];
    let config = config::load(Some(SOURCES.as_ref()), Vec::new(), &settings).expect("benches/receive.toml");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&config.store).await.expect("a data folder");
        let tls = wire::Tls::load(&config.tls, &config.sources).expect("no files");
        let receiver = Receiver::bind(&config.node, &config.sources, &[], &tls).await.expect("a free port");
        receiver.run(store, CancellationToken::new()).await;
    });
}

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/receive.toml");
