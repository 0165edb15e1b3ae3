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
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn kept() -> usize {
        // SAFETY: takes nothing and gives a number.
        unsafe { sidelight_pool_kept() }
    }

    fn tensor(mebibytes: i64) -> Tensor {
        Tensor::ones([mebibytes << 18], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn a_block_waits_for_a_tensor_of_its_size_and_no_more_waits_than_may() {
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
        std::thread::spawn(|| drop(tensor(100))).join().unwrap();
        clear();
        assert_eq!(kept(), 0);
    }
}
