//! From the configured device to one that is there.
//!
//! Neighbours: `cuda` (loads the backend), `engine` and `train` (ask once, at start).

use crate::config::Device;

use super::cuda;
use super::error::EngineError;

/// The device to run on: for `auto` CUDA where there is one, else the CPU. A named CUDA device that cannot be used
/// is an error, never the CPU in silence.
pub fn resolve(device: Device) -> Result<tch::Device, EngineError> {
    match device {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Auto => match cuda::load_backend() {
            Ok(()) if tch::Cuda::is_available() => Ok(tch::Device::Cuda(0)),
            _ => Ok(tch::Device::Cpu),
        },
        Device::Cuda(index) => {
            let fail = |reason: String| Err(EngineError::Device { device: format!("cuda:{index}"), reason });
            if let Err(reason) = cuda::load_backend() {
                return fail(format!("libtorch's CUDA library cannot be loaded ({reason})"));
            }
            if !tch::Cuda::is_available() {
                return fail("libtorch finds no CUDA device or driver".to_owned());
            }
            match usize::try_from(tch::Cuda::device_count()) {
                Ok(count) if index < count => Ok(tch::Device::Cuda(index)),
                count => fail(format!("there are {} CUDA devices", count.unwrap_or(0))),
            }
        }
    }
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
    fn auto_always_finds_a_device_and_a_named_one_is_never_replaced() {
        assert_eq!(resolve(Device::Cpu).unwrap(), tch::Device::Cpu);
        let auto = resolve(Device::Auto).unwrap();
        assert!(matches!(auto, tch::Device::Cpu | tch::Device::Cuda(0)));
        let error = resolve(Device::Cuda(4096)).unwrap_err().to_string();
        assert!(error.starts_with("device cuda:4096 cannot be used: "), "{error}");
        assert!(error.ends_with("set models.device to \"cpu\", or to \"auto\" to use what there is"), "{error}");
    }
}
