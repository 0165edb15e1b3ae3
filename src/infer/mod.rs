//! Inference: model packages, and the one thread per process that owns a device and scores images on it.
//!
//! `card` and `manifest` turn `models/<name>/model.toml` into a proven [`Package`]; `scope` says which instances a
//! model may see; `engine` batches requests over `torch` (the only user of tch beside `train`), whose native
//! networks are in `layers` and `nets`; `aggregate` turns image scores into a study score; `export` writes
//! TorchScript. Neighbours: `domain` and `config` below, `pixels` (makes the inputs) beside, `analyse` above.
//! `elsewhere` and `product` are what a card says of a model that is not run here.
//! Left out: pixels, thresholds (they are in the card, `assess` applies them) and any network socket.

mod aggregate;
mod card;
mod check;
mod cuda;
mod device;
mod elsewhere;
mod engine;
mod error;
mod export;
mod layers;
mod manifest;
mod nets;
mod product;
mod scope;
mod torch;

pub use aggregate::aggregate;
pub use card::{
    Activation, Aggregation, AggregationCard, Architecture, Card, FindingCard, Format, GroupCard, InputCard,
    OutputCard, Provenance,
};
pub use check::contract_of;
pub use device::{device_name, resolve as resolve_device};
pub use elsewhere::{Elsewhere, Server, ServerCard, Shape, Token};
pub use engine::{Engine, EngineOptions, EngineStats};
pub use error::{EngineError, InferError};
pub use export::{ExportError, export_package, trace, write_package};
pub use layers::{ConvOptions, Forward, conv, dropout, function, linear, norm, relu, sequence};
pub use manifest::{CardFault, ManifestError, Package, Weights, load_all};
pub use nets::build as build_network;
pub use product::{Product, ProductKind, ResultCard};
pub use scope::{Scope, ScopeCard};
pub use torch::probabilities;
