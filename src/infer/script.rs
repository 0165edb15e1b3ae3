//! TorchScript made ready for inference: calls of libtorch that torch-sys does not bind, through `script.cpp`.
//!
//! A network as it was traced looks its parameters up, and normalises after each convolution. Frozen (as by
//! `torch.jit.freeze`), with normalisation folded into convolutions and weights in channels last, it computes the same
//! in fewer steps. Before any of that its operators are looked at: TorchScript has some for files, and a network has no
//! use for them. Beside it: deterministic algorithms, and the state of random numbers. Neighbours: `torch` loads what
//! comes out, `train` keeps the state. Left out: whether it still computes the same, which `torch`
//! checks.

use std::ffi::{CStr, c_char, c_void};

use tch::Device;

use crate::domain::Precision;

/// Whether the functions of a TorchScript file compute and do nothing else: an operator that reaches files, prints or
/// asks other processes is refused by its name. Nothing of the file is run.
#[allow(unsafe_code)]
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut error = std::ptr::null_mut();
    // SAFETY: the function reads `bytes.len()` bytes and keeps none of them. `error` is null, or a C string from malloc,
    // which is copied here and given back once.
    unsafe {
        let sound = sidelight_script_check(bytes.as_ptr().cast(), bytes.len(), &raw mut error);
        let result = if sound { Ok(()) } else { Err(first_line(error)) };
        sidelight_script_free(error);
        result
    }
}

/// The first line of what the C++ side says.
///
/// # Safety
/// `error` is null or a C string.
#[allow(unsafe_code)]
unsafe fn first_line(error: *const c_char) -> String {
    if error.is_null() {
        return "no memory".to_owned();
    }
    // SAFETY: it is not null, so it is a C string, as the caller promises.
    let text = unsafe { CStr::from_ptr(error) }.to_string_lossy();
    text.lines().find(|l| !l.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

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

/// A network that tells what it computes on its way.
pub(super) struct Exposed {
    /// A TorchScript file whose `forward` returns a tuple: what the network returns, and each tensor from its first
    /// convolution on, in order.
    pub(super) bytes: Vec<u8>,
    /// Of each of these tensors, whether a convolution gives it.
    pub(super) convolutions: Vec<bool>,
}

/// The network of a TorchScript file, frozen in fp32, with what it computes on its way.
pub(super) fn expose(bytes: &[u8]) -> Result<Exposed, String> {
    let (mut length, mut kinds, mut error) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    #[allow(unsafe_code)]
    // SAFETY: as in `call`; `kinds` is null, or a C string from malloc, copied and given back once.
    unsafe {
        let data = bytes.as_ptr().cast();
        let out = sidelight_script_expose(data, bytes.len(), &raw mut length, &raw mut kinds, &raw mut error);
        let convolutions = if kinds.is_null() { &[] } else { CStr::from_ptr(kinds).to_bytes() };
        let convolutions = convolutions.iter().map(|kind| *kind == b'c').collect();
        sidelight_script_free(kinds);
        taken(out, length, error).map(|bytes| Exposed { bytes, convolutions })
    }
}

/// The bytes of a TorchScript file whose weights have their values in another order, by libtorch's generator.
#[allow(unsafe_code)]
pub(super) fn forgotten(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (mut length, mut error) = (0, std::ptr::null_mut());
    // SAFETY: as in `call`.
    unsafe {
        let out = sidelight_script_forget(bytes.as_ptr().cast(), bytes.len(), &raw mut length, &raw mut error);
        taken(out, length, error)
    }
}

#[allow(unsafe_code)]
fn call(bytes: &[u8], kind: i8) -> Result<Vec<u8>, String> {
    let (mut length, mut error) = (0, std::ptr::null_mut());
    // SAFETY: the function reads `bytes.len()` bytes and keeps none of them. What it returns is as `taken` asks.
    unsafe {
        let out = sidelight_script_prepare(bytes.as_ptr().cast(), bytes.len(), kind, &raw mut length, &raw mut error);
        taken(out, length, error)
    }
}

/// What a function of `script.cpp` returned.
///
/// # Safety
/// `out` is null, or `length` bytes from malloc; `error` is null, or a C string from malloc. Both are given back here.
#[allow(unsafe_code)]
unsafe fn taken(out: *mut c_char, length: usize, error: *mut c_char) -> Result<Vec<u8>, String> {
    // SAFETY: what the caller says of both; each is copied and given back once.
    unsafe {
        let result = if out.is_null() || !error.is_null() {
            Err(first_line(error))
        } else {
            Ok(std::slice::from_raw_parts(out.cast::<u8>(), length).to_vec())
        };
        sidelight_script_free(out);
        sidelight_script_free(error);
        result
    }
}

/// Until it is dropped, this thread's tensors know nothing of gradients and of views: less to do for each operation.
pub(super) struct InferenceMode {
    mode: *mut c_void,
    /// Without memory for the mode.
    _instead: Option<tch::NoGradGuard>,
}

impl InferenceMode {
    #[allow(unsafe_code)]
    pub(super) fn begin() -> Self {
        // SAFETY: takes nothing; what comes back is given to the other function once, on this thread, since a pointer
        // makes the struct stay there.
        let mode = unsafe { sidelight_inference_begin() };
        Self { mode, _instead: mode.is_null().then(tch::no_grad_guard) }
    }
}

impl Drop for InferenceMode {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: of `begin`, on its thread, or null, which the function leaves alone.
        unsafe { sidelight_inference_end(self.mode) }
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
    fn sidelight_script_check(data: *const c_char, length: usize, error: *mut *mut c_char) -> bool;
    fn sidelight_script_expose(
        data: *const c_char,
        length: usize,
        out_length: *mut usize,
        kinds: *mut *mut c_char,
        error: *mut *mut c_char,
    ) -> *mut c_char;
    fn sidelight_script_forget(
        data: *const c_char,
        length: usize,
        out_length: *mut usize,
        error: *mut *mut c_char,
    ) -> *mut c_char;
    fn sidelight_script_free(memory: *mut c_char);
    fn sidelight_inference_begin() -> *mut c_void;
    fn sidelight_inference_end(mode: *mut c_void);
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

    #[test]
    fn a_network_forgets_what_it_learned_whether_it_was_traced_or_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let given = file(&dir.path().join("network.pt"));
        let xs = Tensor::rand([5, 1, 8, 8], (Kind::Float, Device::Cpu));
        let said = |bytes: &[u8]| load(bytes).forward_ts(&[&xs]).unwrap();
        let apart = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap();
        for bytes in [prepare(&given, Precision::Fp32).unwrap(), given] {
            let by = |seed| {
                tch::manual_seed(seed);
                said(&forgotten(&bytes).unwrap())
            };
            let (one, again, other) = (by(3), by(3), by(4));
            assert!(apart(&one, &again) == 0.0 && apart(&one, &other) > 1e-3 && apart(&one, &said(&bytes)) > 1e-3);
            assert_eq!(one.size(), [5, 2]);
        }
        let idle = crate::infer::reference::scripted("        return images.flatten(1)[:, :2]");
        assert_eq!(forgotten(&idle).unwrap_err(), "it has no weights");
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

    /// Scripted by PyTorch: in a branch, in a method that `forward` does not call, and while the file is loaded.
    #[test]
    fn a_file_that_would_reach_beyond_the_network_is_refused_by_what_it_calls() {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join("written");
        let save = format!("torch.save(images, '{}')", written.display());
        let flat = "        return images.flatten(1)[:, :2]";
        let method = |name: &str, arguments: &str, returns: &str, body: &str| {
            format!("{flat}\n\n    @torch.jit.export\n    def {name}(self{arguments}) -> {returns}:\n        {body}\n")
        };
        let restored = format!(
            "{}\n    @torch.jit.export\n    def __getstate__(self) -> bool:\n        return self.training\n",
            method(
                "__setstate__",
                ", state: bool",
                "None",
                &format!("images = torch.zeros(1); {save}; self.training = state")
            )
        );
        for (body, refused) in [
            (flat.to_owned(), None),
            (format!("        if images.sum() > 0:\n            {save}\n{flat}"), Some("aten::save")),
            (method("other", ", images: torch.Tensor", "None", &save), Some("aten::save")),
            (format!("        print(images)\n{flat}"), Some("prim::Print")),
            (
                format!("        return torch.from_file('{}', size=1) + images", written.display()),
                Some("aten::from_file"),
            ),
            (restored.clone(), Some("save in a file with code that runs while it is loaded")),
        ] {
            let found = check(&crate::infer::reference::scripted(&body));
            match refused {
                None => assert_eq!(found, Ok(())),
                Some(what) => {
                    assert!(found.as_ref().is_err_and(|e| e.starts_with(&format!("it calls {what}"))), "{found:?}")
                }
            }
            assert!(!written.exists(), "nothing was run");
        }
        // libtorch finds code whatever the case of its record's name, and beyond the length that it lists.
        for renamed in ["name.replace('/code/', '/CODE/')", "name.replace('.py', '.PY')"] {
            let found = check(&crate::infer::reference::scripted_as(&restored, renamed));
            assert!(found.as_ref().is_err_and(|e| e.starts_with("it calls save")), "{renamed}: {found:?}");
            assert!(!written.exists(), "nothing was run");
        }
        let old = crate::infer::reference::scripted_as(flat, "name.replace('/constants.pkl', '/Model.json')");
        assert!(check(&old).unwrap_err().starts_with("it is of the oldest format"));
    }

    #[test]
    fn what_is_no_torchscript_is_an_error_with_a_reason() {
        for bytes in [&b""[..], b"PK not a module"] {
            assert_ne!(prepare(bytes, Precision::Fp32).unwrap_err(), "");
            assert!(check(bytes).unwrap_err().starts_with("not a TorchScript file for this libtorch: "));
        }
    }
}
