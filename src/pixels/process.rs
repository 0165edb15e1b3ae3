//! The decode worker: `sidelight __worker`, a process whose standard input is a socket to the node.
//!
//! It closes what it inherited, locks itself down ([`sandbox`](super::sandbox)) and says so, then parses and decodes
//! one object after another on a thread with a deep stack. Objects come as open files, values of model inputs go into
//! the hand-over memory: it knows no path and opens nothing. A panic of a decoder is a refusal; what the sandbox kills,
//! the node reports. Neighbours: `wire` (messages), `handover` (values), `child` (the other end).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread;

use super::handover::Handover;
use super::sandbox::{self, Protections};
use super::wire::{self, Hello, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Ready, Reply, Task};
use super::{normalise_object, read_header_object};
use crate::domain::{ModelInput, Refusal, RefusalCode};

const STACK_BYTES: usize = 16 << 20;

/// Runs until the node closes the socket. Fails if it cannot lock itself down or the node sends nonsense.
pub fn worker_main() -> ExitCode {
    // first of all, while this process has opened nothing of its own
    if sandbox::close_inherited().is_err() {
        return ExitCode::FAILURE;
    }
    // a panic message may quote what a decoder read: nothing of a patient leaves but through the answer
    std::panic::set_hook(Box::new(|_| {}));
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the decoding thread works with.
struct Worker {
    socket: UnixStream,
    hello: Hello,
    handover: Handover,
}

fn start() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((hello, memory)) = wire::receive::<Hello>(&socket, REQUEST_BYTES_MAX)? else { return Ok(()) };
    let handover = Handover::from(memory.ok_or(io::ErrorKind::InvalidInput)?);
    let status = File::open("/proc/self/status")?;
    let protections = sandbox::renounce()?;
    let worker = Worker { socket, hello, handover };
    let served = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || worker.run(status, protections))?;
    served.join().unwrap_or_else(|_| Err(io::Error::other("the worker's own code panicked")))
}

impl Worker {
    fn run(&self, status: File, mut protections: Protections) -> io::Result<()> {
        sandbox::enter(self.hello.memory_max, self.hello.cpu_seconds, status, &mut protections)?;
        wire::write(&self.socket, &Ready { protections }, REPLY_BYTES_MAX)?;
        while let Some((task, object)) = wire::receive::<Task>(&self.socket, REQUEST_BYTES_MAX)? {
            sandbox::grant_cpu(self.hello.cpu_seconds)?;
            let reply = self.answer(task, object)?;
            let encoded = wire::encode(&reply, REPLY_BYTES_MAX).or_else(|_| {
                let detail = "the header is larger than an answer may be";
                wire::encode(&Reply::Refused(Refusal::new(RefusalCode::TooLarge, detail)), REPLY_BYTES_MAX)
            })?;
            wire::send(&self.socket, &encoded, None)?;
        }
        Ok(())
    }

    fn answer(&self, task: Task, object: Option<OwnedFd>) -> io::Result<Reply> {
        if let Task::Probe(attempt) = task {
            return Ok(Reply::Probed(sandbox::attempt(attempt)));
        }
        let object = File::from(object.ok_or(io::ErrorKind::InvalidInput)?);
        let work = AssertUnwindSafe(|| self.decode(task, object));
        Ok(match catch_unwind(work) {
            Ok(answer) => answer.unwrap_or_else(Reply::Refused),
            Err(_) => Reply::Refused(Refusal::new(RefusalCode::DecodeFailed, "the decoder gave up on a broken frame")),
        })
    }

    fn decode(&self, task: Task, object: File) -> Result<Reply, Refusal> {
        let limits = &self.hello.limits;
        match task {
            Task::Header => Ok(Reply::Header(Box::new(read_header_object(Box::new(object), limits)?))),
            Task::Results(rules) => {
                Ok(Reply::Results(super::result::read_result_object(Box::new(object), &rules, limits)?))
            }
            Task::Normalise { contracts, frames, from } => {
                let mut hand_over = |_, at: u64, input: ModelInput| {
                    let full = "the values cannot be handed over: is there memory left on this machine?";
                    let written = self.handover.write(at * 4, &input.plane);
                    written.map_err(|e| Refusal::new(RefusalCode::WorkerDied, format!("{full} ({e})")))
                };
                let seen = normalise_object(Box::new(object), &contracts, frames, from, limits, &mut hand_over)?;
                Ok(Reply::Normalised(seen))
            }
            Task::Probe(_) => Err(Refusal::new(RefusalCode::Malformed, "a probe has no object")),
        }
    }
}
