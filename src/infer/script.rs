//! TorchScript made ready for inference: calls of libtorch that torch-sys does not bind, through `script.cpp`.
//!
//! A network as it was traced looks its parameters up, and normalises after each convolution. Frozen (as by
//! `torch.jit.freeze`), with normalisation folded into convolutions and weights in channels last, it computes the same
//! in fewer steps. Beside it: deterministic algorithms, and the state of random numbers. Neighbours: `torch` loads what
//! comes out, `train` keeps the state. Left out: whether it still computes the same, which `torch`
//! checks.

use std::ffi::{CStr, c_char};

use tch::Device;

use crate::domain::Precision;

/// The bytes of a TorchScript file for the same `forward`, frozen and with constants in `precision`.
pub(super) fn prepare(bytes: &[u8], precision: Precision) -> Result<Vec<u8>, String> {
    // c10::ScalarType
    let kind = match precision {
        Precision::Fp16 => 5,
        Precision::Fp32 => 6,
        Precision::Bf16 => 15,
    };
    call(bytes, kind)
}

#[allow(unsafe_code)]
fn call(bytes: &[u8], kind: i8) -> Result<Vec<u8>, String> {
    let (mut length, mut error) = (0, std::ptr::null_mut());
    // SAFETY: the function reads `bytes.len()` bytes and keeps none of them. What it returns is null, or `length` bytes
    // from malloc; `error` is null, or a C string from malloc. Both are copied here and given back once.
    unsafe {
        let out = sidelight_script_prepare(bytes.as_ptr().cast(), bytes.len(), kind, &raw mut length, &raw mut error);
        let result = if out.is_null() {
            let text = if error.is_null() { "no memory".into() } else { CStr::from_ptr(error).to_string_lossy() };
            Err(text.lines().find(|l| !l.trim().is_empty()).unwrap_or("no reason given").trim().to_owned())
        } else {
            Ok(std::slice::from_raw_parts(out.cast::<u8>(), length).to_vec())
        };
        sidelight_script_free(out);
        sidelight_script_free(error);
        result
    }
}

/// Deterministic algorithms from now on, for the process.
#[allow(unsafe_code)]
pub fn set_deterministic(on: bool) {
    // SAFETY: sets flags of libtorch's context, which exists for the life of the process; no memory is passed.
    unsafe { sidelight_deterministic(on) }
}

/// Larger than the state of any generator: a Mersenne twister's is 5 KB.
const RANDOM_STATE_BYTES_MAX: usize = 1 << 16;

/// The state of libtorch's random numbers on a device, for a checkpoint.
#[allow(unsafe_code)]
pub fn random_state(device: Device) -> Result<Vec<u8>, String> {
    let mut state = vec![0u8; RANDOM_STATE_BYTES_MAX];
    // SAFETY: the function writes at most as many bytes as it is told that there are, and keeps no pointer.
    let length = unsafe { sidelight_random_state(index(device), state.as_mut_ptr().cast(), state.len()) };
    state.truncate(length);
    if length == 0 { Err("libtorch gives no state of its random numbers".to_owned()) } else { Ok(state) }
}

/// Puts back what [`random_state`] gave.
#[allow(unsafe_code)]
pub fn set_random_state(device: Device, state: &[u8]) -> Result<(), String> {
    // SAFETY: the function reads as many bytes as it is told that there are, and keeps no pointer.
    match unsafe { sidelight_set_random_state(index(device), state.as_ptr().cast(), state.len()) } {
        true => Ok(()),
        false => Err("libtorch does not take this state of its random numbers".to_owned()),
    }
}

fn index(device: Device) -> i32 {
    match device {
        Device::Cuda(index) => i32::try_from(index).unwrap_or(i32::MAX),
        _ => -1,
    }
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn sidelight_script_prepare(
        data: *const c_char,
        length: usize,
        kind: i8,
        out_length: *mut usize,
        error: *mut *mut c_char,
    ) -> *mut c_char;
    fn sidelight_script_free(memory: *mut c_char);
    fn sidelight_deterministic(on: bool);
    fn sidelight_random_state(device: i32, out: *mut c_char, capacity: usize) -> usize;
    fn sidelight_set_random_state(device: i32, data: *const c_char, length: usize) -> bool;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine as _;
    use tch::nn::VarStore;
    use tch::{CModule, Device, Kind, Tensor};

    use super::*;
    use crate::domain::Contract;
    use crate::infer::layers::small_network;

    fn load(mut bytes: &[u8]) -> CModule {
        CModule::load_data(&mut bytes).unwrap()
    }

    /// The file of a convolution whose normalisation matters, and a linear layer.
    fn file(path: &Path) -> Vec<u8> {
        tch::manual_seed(1);
        let mut store = VarStore::new(Device::Cpu);
        let p = store.root();
        let forward = small_network(&p);
        {
            let _guard = tch::no_grad_guard();
            for name in ["running_mean", "running_var", "weight", "bias"] {
                let mut values = (&p / 1).get(name).unwrap();
                values.copy_(&(values.rand_like() + 0.5));
            }
        }
        store.freeze();
        let contract = Contract::preset("minmax-unit", 8).unwrap();
        crate::infer::trace(&forward, &contract).unwrap().save(path).unwrap();
        std::fs::read(path).unwrap()
    }

    /// Tensors among the constants of a file, which is an archive with their names once beside each and once at its end.
    fn constants(bytes: &[u8]) -> usize {
        bytes.windows(11).filter(|w| w == b"/constants/").count() / 2
    }

    #[test]
    fn a_frozen_network_computes_the_same_without_normalisation_and_in_other_precisions_about_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let given = file(&dir.path().join("network.pt"));
        let xs = Tensor::rand([5, 1, 8, 8], (Kind::Float, Device::Cpu));
        let expected = load(&given).forward_ts(&[&xs]).unwrap();
        let check = |bytes: &[u8], kind: Kind, tolerance: f64| {
            let found = load(bytes).forward_ts(&[xs.to_kind(kind)]).unwrap();
            assert_eq!(found.kind(), kind);
            let apart = f64::try_from((found.to_kind(Kind::Float) - &expected).abs().max()).unwrap();
            assert!(apart < tolerance, "{kind:?}: {apart}");
        };
        let frozen = prepare(&given, Precision::Fp32).unwrap();
        // weight, four of normalisation, two of the linear layer; then normalisation is a bias of the convolution
        assert_eq!((constants(&given), constants(&frozen)), (7, 4));
        check(&frozen, Kind::Float, 1e-6);
        check(&prepare(&frozen, Precision::Fp32).unwrap(), Kind::Float, 1e-6);
        check(&prepare(&given, Precision::Bf16).unwrap(), Kind::BFloat16, 0.05);
        check(&prepare(&frozen, Precision::Bf16).unwrap(), Kind::BFloat16, 0.05);
        check(&prepare(&frozen, Precision::Fp16).unwrap(), Kind::Half, 0.01);
    }

    /// Traced by PyTorch 2.11: modules within modules, whose methods freezing removes. nested.csv has the file and what
    /// PyTorch computes for a ramp.
    #[test]
    fn a_network_of_modules_within_modules_is_frozen_on_a_thread_that_optimises_nothing() {
        let table = include_str!("nested.csv");
        let row: Vec<&str> = table.lines().nth(1).unwrap().split(',').collect();
        let given = base64::engine::general_purpose::STANDARD.decode(row[2]).unwrap();
        tch::jit::set_graph_executor_optimize(false);
        let ramp = (Tensor::arange(64, (Kind::Float, Device::Cpu)) / 64.0).view([1, 1, 8, 8]);
        let frozen = prepare(&given, Precision::Fp32).unwrap();
        let found = load(&frozen).forward_ts(&[ramp]).unwrap();
        for (i, expected) in row[..2].iter().enumerate() {
            let apart = found.double_value(&[0, i as i64]) - expected.parse::<f64>().unwrap();
            assert!(apart.abs() < 1e-6, "{i}: {apart}");
        }
        // two convolutions and a linear layer, with a bias each
        assert_eq!(constants(&frozen), 6);
    }

    #[test]
    fn what_is_no_torchscript_is_an_error_with_a_reason() {
        for bytes in [&b""[..], b"PK not a module"] {
            assert_ne!(prepare(bytes, Precision::Fp32).unwrap_err(), "");
        }
    }
}
