//! Memory of tensors on the processor, kept for the next ones (`pool.cpp`).
//!
//! Neighbours: `engine` and `train` install it, `watch` empties it when nothing is scored. Left out: a GPU's memory,
//! which libtorch keeps itself.

#![allow(unsafe_code)]

/// Bytes that wait for their next tensor at most: what the layers of a batch of radiographs take together.
const KEPT_BYTES_MAX: usize = 512 << 20;

/// Large tensors from now on, of the whole process; once is enough.
pub fn keep_memory() {
    // SAFETY: takes a number; libtorch's allocator may be replaced at any time, since every tensor knows who frees it.
    unsafe { sidelight_pool_install(KEPT_BYTES_MAX) }
}

/// Gives back to the system what waits.
pub(super) fn clear() {
    // SAFETY: takes nothing; what waits belongs to no tensor.
    unsafe { sidelight_pool_clear() }
}

unsafe extern "C" {
    fn sidelight_pool_install(kept_max: usize);
    fn sidelight_pool_clear();
    #[cfg(test)]
    fn sidelight_pool_kept() -> usize;
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tch::{Device, Kind, Tensor};

    use super::*;

    fn kept() -> usize {
        // SAFETY: takes nothing and gives a number.
        unsafe { sidelight_pool_kept() }
    }

    fn tensor(mebibytes: i64) -> Tensor {
        Tensor::ones([mebibytes << 18], (Kind::Float, Device::Cpu))
    }

    /// What waits is counted for the whole process, so this test has one of its own.
    #[test]
    fn a_block_waits_for_a_tensor_of_its_size_and_no_more_waits_than_may() {
        const ALONE: &str = "SIDELIGHT_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let module = module_path!().split_once("::").unwrap().1;
            let name = format!("{module}::a_block_waits_for_a_tensor_of_its_size_and_no_more_waits_than_may");
            let mut alone = Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
            return;
        }
        let before = tensor(6);
        keep_memory();
        keep_memory();
        drop(before);
        assert_eq!(kept(), 0, "what libtorch took goes back to libtorch");
        let (small, large) = (Tensor::ones([1000], (Kind::Float, Device::Cpu)), tensor(30));
        let address = large.data_ptr();
        drop((small, large));
        assert_eq!(kept(), 30 << 20);
        let other = tensor(20);
        assert_eq!(kept(), 30 << 20, "far too large for it");
        let again = tensor(29);
        assert_eq!((again.data_ptr(), kept()), (address, 0));
        assert_eq!(again.sum(Kind::Float).double_value(&[]), f64::from(29 << 18));
        drop((again, other));
        assert_eq!(kept(), 50 << 20);
        let many: Vec<Tensor> = (0..8).map(|_| tensor(100)).collect();
        drop(many);
        assert_eq!(kept(), 500 << 20, "five of a hundred");
        drop(Tensor::empty([600 << 18], (Kind::Float, Device::Cpu)));
        assert_eq!(kept(), 500 << 20, "too large to wait, and no reason to free what does");
        drop(Tensor::ones([3 << 17], (Kind::Float, Device::Cpu)));
        assert_eq!(kept(), 500 << 20, "less than a huge page is libtorch's affair");
        std::thread::spawn(|| drop(tensor(100))).join().unwrap();
        clear();
        assert_eq!(kept(), 0);
    }
}
