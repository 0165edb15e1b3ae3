//! From the configured devices to those that are there.
//!
//! Neighbours: `cuda` (loads the backend), `engine` and `train` (ask once, at start).

use crate::config::Device;

use super::cuda;
use super::error::EngineError;

/// The devices to run on: for `auto` every CUDA device there is, else the CPU. A named CUDA device that cannot be used
/// is an error, never the CPU in silence.
pub fn resolve_all(devices: &[Device]) -> Result<Vec<tch::Device>, EngineError> {
    let mut found = Vec::new();
    for device in devices {
        match device {
            Device::Cpu => found.push(tch::Device::Cpu),
            Device::Auto => match cuda_count() {
                Ok(count) if count > 0 => found.extend((0..count).map(tch::Device::Cuda)),
                _ => found.push(tch::Device::Cpu),
            },
            Device::Cuda(index) => {
                let fail = |reason: String| EngineError::Device { device: format!("cuda:{index}"), reason };
                match cuda_count().map_err(fail)? {
                    count if *index < count => found.push(tch::Device::Cuda(*index)),
                    count => return Err(fail(format!("there are {count} CUDA devices"))),
                }
            }
        }
    }
    Ok(found)
}

/// The device for work that needs one: the first of [`resolve_all`].
pub fn resolve(device: Device) -> Result<tch::Device, EngineError> {
    Ok(resolve_all(&[device])?.first().copied().unwrap_or(tch::Device::Cpu))
}

/// Whether cuBLAS, which reads `workspace` (`CUBLAS_WORKSPACE_CONFIG`) when it is loaded, adds up in one order only.
pub(super) fn can_be_deterministic(devices: &[tch::Device], workspace: Option<&str>) -> Result<(), EngineError> {
    let cuda = devices.iter().find(|device| matches!(device, tch::Device::Cuda(_)));
    match cuda {
        Some(device) if !matches!(workspace, Some(":4096:8" | ":16:8")) => Err(EngineError::Device {
            device: device_name(*device),
            reason: "models.deterministic needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// How many CUDA devices there are, at least one, or why there is none.
fn cuda_count() -> Result<usize, String> {
    cuda::load_backend().map_err(|reason| format!("libtorch's CUDA library cannot be loaded ({reason})"))?;
    if !tch::Cuda::is_available() {
        return Err("libtorch finds no CUDA device or driver".to_owned());
    }
    Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or(0))
}

/// As in the configuration: `cpu`, `cuda:0`.
pub fn device_name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_deterministic_only_where_cublas_was_told_to_be() {
        let (cpu, gpu) = (tch::Device::Cpu, tch::Device::Cuda(0));
        for (devices, workspace, fit) in [
            (&[cpu][..], None, true),
            (&[gpu], None, false),
            (&[gpu], Some(":0:0"), false),
            (&[gpu], Some(":4096:8"), true),
        ] {
            assert_eq!(can_be_deterministic(devices, workspace).is_ok(), fit, "{devices:?} {workspace:?}");
        }
    }

    #[test]
    fn auto_always_finds_a_device_and_a_named_one_is_never_replaced() {
        assert_eq!(resolve(Device::Cpu).unwrap(), tch::Device::Cpu);
        let auto = resolve_all(&[Device::Auto]).unwrap();
        let all_cuda = || auto.iter().enumerate().all(|(i, device)| *device == tch::Device::Cuda(i));
        assert!(!auto.is_empty() && (auto == [tch::Device::Cpu] || all_cuda()), "{auto:?}");
        assert_eq!(resolve(Device::Auto).unwrap(), auto[0]);
        let error = resolve(Device::Cuda(4096)).unwrap_err().to_string();
        assert!(error.starts_with("device cuda:4096 cannot be used: "), "{error}");
        assert!(error.ends_with("set models.device to \"cpu\", or to \"auto\" to use what there is"), "{error}");
    }
}
