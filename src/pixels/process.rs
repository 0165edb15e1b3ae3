//! The decode worker: `sidelight __worker`, a process that reads requests from its input and answers on its output.
//!
//! It locks itself down ([`sandbox`](super::sandbox)), then parses and decodes one object after another on a thread
//! with a deep stack. A panic of a decoder is a refusal; what the sandbox kills, the parent reports.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use super::wire::{self, Hello, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, Task};
use super::{Limits, Normalised, normalise_file, read_header_file, sandbox};
use crate::domain::{ModelInput, Refusal, RefusalCode};

const STACK_BYTES: usize = 16 << 20;

/// Runs until the input ends. Fails if it cannot lock itself down or the parent sends nonsense.
pub fn worker_main() -> ExitCode {
    // a panic message may quote what a decoder read: nothing of a patient leaves but through the answer
    std::panic::set_hook(Box::new(|_| {}));
    let served = thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).map(thread::JoinHandle::join);
    match served {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = BufWriter::new(io::stdout().lock());
    let Some(hello) = wire::read::<Hello>(&mut input, REQUEST_BYTES_MAX)? else { return Ok(()) };
    sandbox::enter(hello.memory_max)?;
    while let Some(request) = wire::read::<Request>(&mut input, REQUEST_BYTES_MAX)? {
        sandbox::grant_cpu(hello.cpu_seconds)?;
        let (reply, inputs) = answer(request, &hello.limits);
        if wire::write(&mut output, &reply, REPLY_BYTES_MAX).is_err() {
            let refusal = Refusal::new(RefusalCode::TooLarge, "the header is larger than an answer may be");
            wire::write(&mut output, &Reply::Refused(refusal), REPLY_BYTES_MAX)?;
        }
        for value in inputs.iter().flat_map(|input| &input.values) {
            output.write_all(&value.to_le_bytes())?;
        }
        output.flush()?;
    }
    Ok(())
}

fn answer(request: Request, limits: &Limits) -> (Reply, Vec<ModelInput>) {
    let path = PathBuf::from(OsString::from_vec(request.path));
    let work = || match request.task {
        Task::Header => read_header_file(&path, limits).map(|h| (Reply::Header(Box::new(h)), Vec::new())),
        Task::Normalise { contracts, frames } => normalise_file(&path, &contracts, frames, limits).map(|n| {
            let Normalised { pixel_digest, frames, inputs } = n;
            (Reply::Normalised { pixel_digest, frames }, inputs)
        }),
    };
    let refused = |refusal| (Reply::Refused(refusal), Vec::new());
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.unwrap_or_else(refused),
        Err(_) => refused(Refusal::new(RefusalCode::DecodeFailed, "the decoder gave up on a broken frame")),
    }
}
