//! Weights of safetensors files, under torchvision's names, into the networks of `nets`.
//!
//! Every parameter is accounted for: what the file lacks, has beyond the network, or has in another shape is an error
//! by name. Neighbours: `torch` loads packages through [`load_native`], `train` its start weights through
//! [`load_start_weights`]. Left out: where the bytes come from.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use super::card::Architecture;
use super::error::torch_reason;
use super::nets::{self, Parts, Width};

/// What PyTorch's wrappers put before the names of what they wrap.
const WRAPPERS: [&str; 2] = ["module.", "model."];

/// What became of a file of start weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartWeights {
    /// Parameters and statistics that were taken.
    pub taken: usize,
    /// The file's last layer is for another number of outputs: the network's own, fresh one stays.
    pub fresh_head: bool,
}

/// A native network with the weights of a safetensors file under torchvision's names, ready for inference.
pub(super) fn load_native(bytes: &[u8], architecture: Architecture, width: Width) -> Result<Parts, String> {
    let mut store = VarStore::new(Device::Cpu);
    let parts = nets::parts(&store.root(), architecture, width).map_err(|e| torch_reason(&e))?;
    fill(&store, bytes, architecture, width, |_| false)?;
    store.freeze();
    Ok(parts)
}

/// Weights to start training from, into a network that was built in `store`. A last layer for another number of outputs
/// is left out; everything else must fit.
pub fn load_start_weights(
    store: &VarStore,
    bytes: &[u8],
    architecture: Architecture,
    width: Width,
) -> Result<StartWeights, String> {
    let head = nets::head_name(architecture);
    let file = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
    let names = plain_names(&file, head)?;
    let weight = format!("{head}.weight");
    let rows =
        names.get(&weight).and_then(|name| file.tensor(name).ok()).and_then(|view| view.shape().first().copied());
    let fresh_head = rows.is_some_and(|rows| i64::try_from(rows) != Ok(width.columns));
    let is_left = |key: &str| fresh_head && (key == weight || key == format!("{head}.bias"));
    let taken = fill(store, bytes, architecture, width, is_left)?;
    Ok(StartWeights { taken, fresh_head })
}

/// Copies the file's tensors into the store's, except for those that are left as they are; how many.
fn fill(
    store: &VarStore,
    bytes: &[u8],
    architecture: Architecture,
    width: Width,
    is_left: impl Fn(&str) -> bool,
) -> Result<usize, String> {
    let reason = |e: TchError| torch_reason(&e);
    let file = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
    let variables: HashMap<String, Tensor> = store.variables();
    let name = architecture.as_str();
    let names = plain_names(&file, nets::head_name(architecture))?;
    check_names(&names, &variables, name)?;
    let _guard = tch::no_grad_guard();
    let mut taken = 0;
    for (key, mut variable) in variables.into_iter().filter(|(key, _)| !is_left(key)) {
        let view = file.tensor(&names[&key]).map_err(|e| format!("{key}: {e}"))?;
        let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
        if shape != variable.size() {
            let Width { channels, columns } = width;
            return Err(format!(
                "{key} has shape {shape:?}, a {name} with {columns} outputs for {channels} channels has {:?}",
                variable.size()
            ));
        }
        let stored = kind_of(view.dtype()).ok_or_else(|| format!("{key} holds {:?}, not numbers", view.dtype()))?;
        let values = Tensor::f_from_data_size(view.data(), &shape, stored).map_err(reason)?;
        let finite = values.f_isfinite().and_then(|t| t.f_all()).and_then(bool::try_from).map_err(reason)?;
        if !finite {
            return Err(format!("{key} has values that are not finite"));
        }
        variable.f_copy_(&values).map_err(reason)?;
        taken += 1;
    }
    Ok(taken)
}

fn not_safetensors(error: safetensors::SafeTensorError) -> String {
    format!("not a safetensors file: {error}")
}

/// torchvision's names of the file's tensors, with the names that they have in the file. `DataParallel` puts `module.`
/// before each, a module around the network `model.`; a last layer that stands in a `Sequential` with its activation has
/// a `0.` in its name.
fn plain_names(file: &SafeTensors, head: &str) -> Result<HashMap<String, String>, String> {
    let all = file.names();
    let mut skip = 0;
    while let Some(prefix) = WRAPPERS.iter().find(|w| all.iter().all(|name| name[skip..].starts_with(**w))) {
        if all.is_empty() {
            break;
        }
        skip += prefix.len();
    }
    let inner = format!("{head}.0.");
    let mut names = HashMap::new();
    for name in all {
        let plain = match name[skip..].strip_prefix(&inner) {
            Some(parameter) => format!("{head}.{parameter}"),
            None => name[skip..].to_owned(),
        };
        if let Some(twin) = names.insert(plain, name.to_owned()) {
            return Err(format!("{name} and {twin} are the same parameter"));
        }
    }
    Ok(names)
}

fn check_names(names: &HashMap<String, String>, variables: &HashMap<String, Tensor>, name: &str) -> Result<(), String> {
    let first = |mut list: Vec<&str>| {
        list.sort_unstable();
        let more = if list.len() > 3 { format!(" and {} more", list.len() - 3) } else { String::new() };
        list.truncate(3);
        format!("{}{more}", list.join(", "))
    };
    let missing: Vec<&str> = variables.keys().map(String::as_str).filter(|k| !names.contains_key(*k)).collect();
    if !missing.is_empty() {
        return Err(format!("the file lacks parameters of {name} under torchvision's names: {}", first(missing)));
    }
    // PyTorch counts batches seen in training, torchxrayvision keeps its thresholds there, which are the card's.
    let ignored = |k: &str| k.ends_with("num_batches_tracked") || k == "op_threshs";
    let unknown: Vec<&str> =
        names.keys().map(String::as_str).filter(|k| !variables.contains_key(*k) && !ignored(k)).collect();
    if !unknown.is_empty() {
        return Err(format!("the file has parameters that {name} does not: {}", first(unknown)));
    }
    Ok(())
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
