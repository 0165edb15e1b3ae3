//! TorchScript out: native networks traced, checked against themselves, and written as packages.
//!
//! Neighbours: `train` exports what it trained through [`trace`] and [`write_package`]; `sidelight model export`
//! turns a safetensors package into one TorchScript file through [`export_package`]. Left out: quantisation, ONNX.

use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use tch::{CModule, Device, Kind, TchError, Tensor};

use crate::domain::{Contract, Digest};

use super::card::{Card, Format};
use super::error::torch_reason;
use super::files;
use super::layers::{Forward, sequence};
use super::manifest::{ManifestError, Package, Weights};
use super::native::load_native;
use super::nets::Parts;
use super::torch::read_weights;

/// How far the traced network's outputs may lie from the network's own, relative to their size.
const TRACE_TOLERANCE: f64 = 1e-5;

/// Why there is no exported file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("the traced network differs from the network by {0:e}, more than 1e-5; it cannot be traced as it is")]
    Differs(f64),
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{0} is TorchScript already: copy its weight file")]
    AlreadyTorchScript(String),
    #[error("{0} is not run here: there is no network to write")]
    Elsewhere(String),
    #[error(
        "the out-of-distribution score of {0} needs the network's features, which are not written: remove [ood] first"
    )]
    Features(String),
    #[error("the written package is not valid:\n{0}")]
    Package(#[from] ManifestError),
}

/// Traces `forward` in eval mode for images of `contract`, and verifies on random images, in batches of other sizes
/// than the traced one, that both give the same outputs. The network's parameters must not require gradients.
pub fn trace(forward: &Forward, contract: &Contract) -> Result<CModule, ExportError> {
    let _guard = tch::no_grad_guard();
    let torch = |e: TchError| ExportError::Torch(torch_reason(&e));
    let side = i64::from(contract.size);
    let images = |n: i64| Tensor::f_randn([n, i64::from(contract.channels), side, side], (Kind::Float, Device::Cpu));
    let example = images(2).map_err(torch)?;
    let mut failed = None;
    let mut run = |inputs: &[Tensor]| match forward(&inputs[0], false) {
        Ok(output) => vec![output],
        Err(error) => {
            failed = Some(error);
            vec![inputs[0].shallow_clone()]
        }
    };
    let traced = CModule::create_by_tracing("Network", "forward", &[example], &mut run);
    if let Some(error) = failed {
        return Err(torch(error));
    }
    let mut module = traced.map_err(torch)?;
    module.f_set_eval().map_err(torch)?;
    for n in [1, 3] {
        let xs = images(n).map_err(torch)?;
        let expected = forward(&xs, false).map_err(torch)?;
        let found = module.forward_ts(&[xs]).map_err(torch)?;
        let apart = difference(&expected, &found).map_err(torch)?;
        if apart.is_nan() || apart > TRACE_TOLERANCE {
            return Err(ExportError::Differs(apart));
        }
    }
    Ok(module)
}

/// Writes a safetensors package's network as one TorchScript file, which must not be there; returns its SHA-256.
pub fn export_package(package: &Package, out: &Path) -> Result<Digest, ExportError> {
    let name = || package.identity.name.clone();
    let architecture = match package.weights {
        Weights::Safetensors(architecture) => architecture,
        Weights::TorchScript => return Err(ExportError::AlreadyTorchScript(name())),
        Weights::Elsewhere => return Err(ExportError::Elsewhere(name())),
    };
    if package.needs_features() {
        return Err(ExportError::Features(name()));
    }
    let out_error = |reason: String| ExportError::File { path: out.to_owned(), reason };
    if out.symlink_metadata().is_ok() {
        return Err(out_error("is there already: name another file, or move it away".to_owned()));
    }
    let file_error = |reason: String| ExportError::File { path: package.weights_path.clone(), reason };
    let bytes = read_weights(package).map_err(file_error)?;
    let Parts { features, head } = load_native(&bytes, architecture, package.width()).map_err(file_error)?;
    let module = trace(&sequence(vec![features, head]), &package.contract)?;
    let bytes = bytes_of(&module).map_err(out_error)?;
    files::write_durably(out, &bytes).map_err(|e| out_error(e.to_string()))?;
    Ok(Digest::of(&bytes))
}

/// The module as a TorchScript file.
pub(super) fn bytes_of(module: &CModule) -> Result<Vec<u8>, String> {
    // libtorch writes to files by name only; this one is memory.
    let mut file = std::fs::File::from(
        rustix::fs::memfd_create("script", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| e.to_string())?,
    );
    module.save(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| torch_reason(&e))?;
    let mut script = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut script)).map_err(|e| e.to_string())?;
    Ok(script)
}

/// Writes a TorchScript package into the folder `dir` (named as the card names the model) and loads it again as the
/// node would. The card's format, file and hash are set here.
pub fn write_package(dir: &Path, mut card: Card, module: &CModule, header: &str) -> Result<Package, ExportError> {
    let file_error = |path: &Path, reason: String| ExportError::File { path: path.to_owned(), reason };
    std::fs::create_dir_all(dir).map_err(|e| file_error(dir, e.to_string()))?;
    card.format = Format::TorchScript;
    card.architecture = None;
    card.file = "weights.pt".to_owned();
    card.sha256 = save(module, &dir.join(&card.file))?;
    let path = dir.join("model.toml");
    let body = toml::to_string(&card).map_err(|e| file_error(&path, e.to_string()))?;
    let comment: String = header.lines().map(|line| format!("# {line}\n")).collect();
    std::fs::write(&path, format!("{comment}\n{body}")).map_err(|e| file_error(&path, e.to_string()))?;
    Ok(Package::load(dir)?)
}

fn save(module: &CModule, path: &Path) -> Result<Digest, ExportError> {
    module.save(path).map_err(|e| ExportError::File { path: path.to_owned(), reason: torch_reason(&e) })?;
    let bytes = std::fs::read(path).map_err(|e| ExportError::File { path: path.to_owned(), reason: e.to_string() })?;
    Ok(Digest::of(&bytes))
}

fn difference(a: &Tensor, b: &Tensor) -> Result<f64, TchError> {
    let scale = f64::try_from(a.f_abs()?.f_max()?)?.max(1.0);
    Ok(f64::try_from(a.f_sub(b)?.f_abs()?.f_max()?)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::layers::{function, linear};
    use tch::nn::VarStore;

    fn contract() -> Contract {
        Contract::preset("minmax-unit", 8).unwrap()
    }

    #[test]
    fn a_traced_network_takes_any_batch_and_computes_the_same() {
        let mut store = VarStore::new(Device::Cpu);
        let forward =
            sequence(vec![function(|xs| xs.f_flatten(1, -1)), linear(&(store.root() / "fc"), 64, 3).unwrap()]);
        store.freeze();
        let module = trace(&forward, &contract()).unwrap();
        let xs = Tensor::randn([7, 1, 8, 8], (Kind::Float, Device::Cpu));
        assert_eq!(module.forward_ts(&[&xs]).unwrap(), forward(&xs, false).unwrap());
    }

    #[test]
    fn a_network_that_fixes_the_batch_size_or_fails_is_not_exported() {
        let fixed: Forward = Box::new(|xs, _| xs.f_view([xs.size()[0], 64]));
        assert!(matches!(trace(&fixed, &contract()), Err(ExportError::Torch(_))));
        let failing: Forward = Box::new(|xs, _| xs.f_view([1, 1]));
        assert!(matches!(trace(&failing, &contract()), Err(ExportError::Torch(_))));
        let random: Forward =
            Box::new(|xs, _| xs.f_flatten(1, -1)?.f_add(&Tensor::f_randn([1, 1], (Kind::Float, Device::Cpu))?));
        assert!(matches!(trace(&random, &contract()), Err(ExportError::Differs(_))));
    }
}
