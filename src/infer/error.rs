//! Why models do not start, and why one input has no score.

/// Models or device are not fit to serve. The program does not start with one of these.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "device {device} cannot be used: {reason}; set models.device to \"cpu\", or to \"auto\" to use what there is"
    )]
    Device { device: String, reason: String },
    #[error("model {model} cannot be loaded: {reason}")]
    Load { model: String, reason: String },
    #[error("model {model} does not keep what its card says: {reason}")]
    WarmUp { model: String, reason: String },
    #[error(
        "model {model} does not compute in {precision} as its card says: {reason}; set models.precision to \"fp32\""
    )]
    Precision { model: String, precision: &'static str, reason: String },
    #[error("an inference thread did not start: {0}")]
    Thread(String),
}

/// One input has no score; others are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    #[error("no model {0} is loaded")]
    UnknownModel(String),
    #[error("the input fulfils another contract than the model's")]
    WrongContract,
    #[error("the input has {given} values, the model's contract asks for {expected}")]
    WrongLength { given: usize, expected: usize },
    #[error("the input has values that are not finite")]
    InputNotFinite,
    #[error("the model's output is unusable: {0}")]
    BadOutput(String),
    #[error("the model failed: {0}")]
    Torch(String),
    #[error("the device has too little memory for the model and one image: {0}")]
    OutOfMemory(String),
    #[error("inference has ended")]
    Stopped,
}

/// What a call of libtorch came to: whether a smaller batch may help is in its text only.
pub(super) fn torch_error(error: &tch::TchError) -> InferError {
    // c10's allocator of the CPU, C++'s own, that of CUDA, what cuBLAS and cuDNN say when theirs gets nothing, and
    // what libtorch says when cuDNN has no algorithm for the memory that is left
    const MEMORY: [&str; 6] = [
        "can't allocate memory",
        "std::bad_alloc",
        "out of memory",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
        "unable to find an engine to execute this computation",
    ];
    let text = error.to_string();
    let reason = torch_reason(error);
    if MEMORY.iter().any(|part| text.contains(part)) {
        InferError::OutOfMemory(reason)
    } else {
        InferError::Torch(reason)
    }
}

/// The first line of a libtorch message: the rest is a C++ stack trace.
pub(super) fn torch_reason(error: &tch::TchError) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or("no reason given").to_owned();
    // TorchScript puts its own trace first and the cause last.
    match text.lines().map(str::trim).rfind(|l| l.starts_with("RuntimeError:")) {
        Some(cause) if first.contains("TorchScript interpreter") => cause.to_owned(),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_known_by_what_each_allocator_says() {
        for (text, memory) in [
            ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB", true),
            ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", true),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", true),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", true),
            ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", true),
            ("FIND was unable to find an engine to execute this computation", true),
            (
                "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
                true,
            ),
            ("std::bad_alloc", true),
            ("CUDA error: an illegal memory access was encountered", false),
            ("index out of range in self", false),
        ] {
            let found = torch_error(&tch::TchError::Torch(text.to_owned()));
            assert_eq!(matches!(found, InferError::OutOfMemory(_)), memory, "{found}");
        }
    }
}
