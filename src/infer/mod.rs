//! Inference: model packages, and the one thread per process that owns a device and scores images on it.
//!
//! `card` and `manifest` turn `models/<name>/model.toml` into a proven [`Package`]; `scope` says which instances a
//! model may see; `engine` batches requests over `torch` (the only user of tch beside `train`), whose native
//! networks are in `layers` and `nets` (`native` fills them); `aggregate` turns image scores into a study score
//! (`calibration`), `ood` says how far an image is from what the model knows (`ood_fit`); `export` writes
//! TorchScript, `import` brings packages in, `golden` compares them with what they answered before. `elsewhere`
//! and `product` are what a card says of a model that is not run here, `explain` and `occlusion` what in an image speaks for a score; `whitebox` has gradients. Neighbours: `domain` and `config` below, `pixels` (makes the inputs) beside, `analyse` above. Left out: pixels, thresholds (they
//! are in the card, `assess` applies them) and any network socket.

mod aggregate;
mod calibration;
mod card;
mod check;
mod cuda;
mod device;
mod elsewhere;
mod engine;
mod error;
mod explain;
mod export;
mod files;
mod golden;
mod import;
mod layers;
mod limit;
mod manifest;
mod native;
mod nets;
mod occlusion;
mod ood;
mod ood_fit;
mod planes;
mod pool;
mod precision;
mod probe;
mod product;
mod queue;
#[cfg(test)]
pub(crate) mod reference;
mod scope;
mod script;
mod supplied;
mod torch;
mod watch;
mod whitebox;
mod worker;

pub use aggregate::{StudyImage, aggregate, ood_of};
pub use calibration::{Calibration, CalibrationCard, Line, temper};
pub use card::{
    Activation, Aggregation, AggregationCard, Architecture, Card, FindingCard, Format, GroupCard, InputCard,
    OutputCard, PrecisionCard, Provenance,
};
pub use check::{contract_of, fault_of};
pub use device::{device_name, resolve as resolve_device, resolve_all};
pub use elsewhere::{Elsewhere, Server, ServerCard, Shape, Token};
pub use engine::{Engine, EngineOptions, EngineStats, ModelState, Placement, Scoring};
pub use error::{EngineError, InferError};
pub use explain::ExplainError;
pub use export::{ExportError, export_package, trace, write_package};
pub use golden::{Golden, GoldenCard, GoldenError, GoldenOutcome, keep_supplied, write_golden};
pub use import::{Import, ImportError, Room, Staged, lock, stage};
pub use layers::{ConvOptions, Forward, conv, dropout, function, linear, norm, relu, sequence};
pub use manifest::{CardFault, ManifestError, Package, Weights, load_all};
pub use native::{StartWeights, load_start_weights};
pub use nets::{Drop as DropOptions, Width, build as build_network};
pub use occlusion::{Changes, Occlusion, distance};
pub use ood::{Ood, OodCard};
pub use ood_fit::{KnownFrame, OodFit, OodFitError, OodMethod, collecting, fit_ood, write_ood};
pub use planes::spread;
pub use pool::keep_memory;
pub use product::{Product, ProductKind, ResultCard};
pub use queue::{Coming, Company};
pub use scope::{Scope, ScopeCard};
pub use script::{random_state, set_deterministic, set_random_state};
pub use torch::probabilities;
pub use whitebox::{Readout, WhiteBox};
