//! The node's end of one decode worker: its process, its socket, its hand-over memory.
//!
//! The node opens the object and passes the open file; it never reads it, and believes nothing of an answer: sizes,
//! counts, finiteness and lengths are checked against what it asked for. Neighbours: `worker` (the pool) above,
//! `wire` (messages) and `handover` (values) below, `process` at the other end. Left out: when a process is replaced.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::handover::Handover;
use super::limits::{OUTPUT_BYTES_MAX, output_bytes};
use super::sandbox::{Outcome, Protections};
use super::wire::{self, Hello, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Ready, Reply, Task};
use super::{Frames, Normalised};
use crate::domain::{Contract, Digest, InstanceHeader, ModelInput, Refusal, RefusalCode};

/// A worker is replaced after so many requests: whatever its decoders leak ends there.
const REQUESTS_PER_PROCESS: u32 = 500;

/// A running worker; dropping it kills it.
pub struct Process {
    child: Child,
    socket: UnixStream,
    handover: Handover,
    /// What the worker said that protects it; `None` until it has said so.
    protections: Option<Protections>,
    served: u32,
}

/// A worker's answer, checked.
pub enum Answer {
    Header(Box<InstanceHeader>),
    Normalised(Normalised),
    Probed(Outcome),
}

impl Process {
    /// Starts `<exe> __worker` and tells it what to lock itself into; does not wait until it has.
    pub fn start(exe: &Path, hello: &Hello, timeout: Duration) -> io::Result<Self> {
        let (socket, other) = UnixStream::pair()?;
        // a worker that reads nothing must not hold the node up
        socket.set_write_timeout(Some(timeout))?;
        let handover = Handover::create()?;
        let mut command = Command::new(exe);
        command.arg("__worker").env_clear().current_dir("/");
        // what a codec prints is nobody's
        command.stdin(OwnedFd::from(other)).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C in a terminal goes to the group: what is being decoded ends with the node, not before it
        command.process_group(0);
        // where the binary was built without a run path, the loader needs to know where libtorch is
        if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let child = command.spawn()?;
        // the command holds the worker's end of the socket: once it is gone, the end of the process is an end of file
        drop(command);
        let process = Self { child, socket, handover, protections: None, served: 0 };
        wire::send(&process.socket, &wire::encode(hello, REQUEST_BYTES_MAX)?, Some(process.handover.as_fd()))?;
        Ok(process)
    }

    /// Whether it still runs and has not served its number of requests.
    pub fn is_usable(&mut self) -> bool {
        self.served < REQUESTS_PER_PROCESS && matches!(self.child.try_wait(), Ok(None))
    }

    /// What protects it, as soon as it says so; `TimedOut` if that is not before the deadline.
    pub fn greeted(&mut self, deadline: Instant) -> io::Result<&Protections> {
        if self.protections.is_none() {
            self.wait_readable(deadline)?;
            let ready: Option<Ready> = wire::read(UntilDeadline { process: self, deadline }, REPLY_BYTES_MAX)?;
            self.protections = Some(ready.ok_or(io::ErrorKind::UnexpectedEof)?.protections);
        }
        self.protections.as_ref().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// One request and its answer. An error means that the process is of no use any more.
    pub fn exchange(
        &mut self,
        task: &Task,
        object: Option<&File>,
        deadline: Instant,
    ) -> io::Result<Result<Answer, Refusal>> {
        self.served += 1;
        let Ok(bytes) = wire::encode(task, REQUEST_BYTES_MAX) else {
            return Ok(Err(Refusal::new(RefusalCode::TooLarge, "the request names too many contracts")));
        };
        self.greeted(deadline)?;
        wire::send(&self.socket, &bytes, object.map(AsFd::as_fd))?;
        let reply: Option<Reply> = wire::read(UntilDeadline { process: self, deadline }, REPLY_BYTES_MAX)?;
        let answer = match (reply.ok_or(io::ErrorKind::UnexpectedEof)?, task) {
            (Reply::Refused(refusal), _) => Err(refusal),
            (Reply::Header(header), Task::Header) => Ok(Answer::Header(header)),
            (Reply::Probed(outcome), Task::Probe(_)) => Ok(Answer::Probed(outcome)),
            (Reply::Normalised { pixel_digest, frames }, Task::Normalise { contracts, frames: chosen }) => {
                check_frames(&frames, *chosen, contracts)?;
                Ok(Answer::Normalised(self.collect(contracts, frames, pixel_digest)?))
            }
            _ => return Err(invalid("an answer to another question")),
        };
        self.handover.trim()?;
        Ok(answer)
    }

    /// What is known of the end of a process that gave no answer.
    pub fn epitaph(mut self, error: &io::Error, timeout: Duration) -> Refusal {
        let detail = match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                format!("no answer from the decode worker within {} s", timeout.as_secs_f32())
            }
            io::ErrorKind::InvalidData => format!("the decode worker's answer makes no sense: {error}"),
            _ => {
                let _ = self.child.kill();
                match self.child.wait().map(|status| (status.signal(), status.code())) {
                    Ok((Some(signal), _)) => format!("the decode worker ended with {}", cause(signal)),
                    Ok((_, Some(code))) => format!("the decode worker ended with exit code {code}"),
                    _ => format!("the decode worker gave no answer: {error}"),
                }
            }
        };
        tracing::warn!(detail, "decode worker replaced");
        Refusal::new(RefusalCode::WorkerDied, detail)
    }

    /// Copies the values out of the hand-over memory, as many as the question makes possible, all of them finite.
    fn collect(&self, contracts: &[Contract], frames: Vec<u32>, pixel_digest: Digest) -> io::Result<Normalised> {
        let mut inputs = Vec::with_capacity(contracts.len() * frames.len());
        let mut at = 0;
        for contract in contracts {
            let digest = contract.digest();
            for _ in &frames {
                let values = self.handover.read(at, contract.len())?;
                at += values.len() as u64 * 4;
                inputs.push(ModelInput { contract: digest.clone(), values });
            }
        }
        Ok(Normalised { pixel_digest, frames, inputs })
    }

    fn wait_readable(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let remain = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(remain).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket that is read no longer than until the deadline.
struct UntilDeadline<'a> {
    process: &'a Process,
    deadline: Instant,
}

impl Read for UntilDeadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.process.wait_readable(self.deadline)?;
        (&self.process.socket).read(buffer)
    }
}

/// A signal's number and name (the same on x86-64 and Arm), and what it means for a worker.
fn cause(signal: i32) -> String {
    let (name, meaning) = match signal {
        4 => ("SIGILL", "a fault in a decoder"),
        6 => ("SIGABRT", "out of memory (pixels.memory_max), or a fault in a decoder"),
        7 => ("SIGBUS", "a fault in a decoder, or no memory left on the machine"),
        9 => ("SIGKILL", "killed, perhaps by the system for want of memory"),
        11 => ("SIGSEGV", "a fault in a decoder"),
        24 => ("SIGXCPU", "processor time used up (pixels.timeout)"),
        25 => ("SIGXFSZ", "wrote beyond the hand-over memory"),
        31 => ("SIGSYS", "a forbidden system call"),
        _ => return format!("signal {signal}: see signal(7)"),
    };
    format!("signal {signal} ({name}): {meaning}")
}

/// Frames that were asked for, of a size that was agreed on.
fn check_frames(frames: &[u32], chosen: Frames, contracts: &[Contract]) -> io::Result<()> {
    let most = match chosen {
        Frames::First | Frames::Middle => 1,
        Frames::All { max } => max.max(1) as usize,
    };
    if frames.is_empty() || frames.len() > most || !frames.is_sorted_by(|a, b| a < b) {
        return Err(invalid("frames that were not asked for"));
    }
    if output_bytes(frames.len(), contracts) > OUTPUT_BYTES_MAX {
        return Err(invalid("more values than an image may have"));
    }
    Ok(())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_an_answer_are_those_that_were_asked_for() {
        let contracts = [Contract::preset("xrv-1024", 1024).expect("a preset")];
        let most = (OUTPUT_BYTES_MAX / output_bytes(1, &contracts)) as u32;
        let rows: [(Vec<u32>, Frames, bool); 9] = [
            (vec![1], Frames::First, true),
            (vec![7], Frames::Middle, true),
            (vec![1, 2, 5], Frames::All { max: 3 }, true),
            ((1..=most).collect(), Frames::All { max: 4096 }, true),
            ((1..=most + 1).collect(), Frames::All { max: 4096 }, false),
            (vec![], Frames::First, false),
            (vec![1, 2], Frames::Middle, false),
            (vec![1, 2, 3, 4], Frames::All { max: 3 }, false),
            (vec![2, 2], Frames::All { max: 3 }, false),
        ];
        for (frames, chosen, expected) in rows {
            assert_eq!(check_frames(&frames, chosen, &contracts).is_ok(), expected, "{} {chosen:?}", frames.len());
        }
    }

    #[test]
    fn signals_are_named() {
        for (signal, expected) in [
            (31, "signal 31 (SIGSYS): a forbidden system call"),
            (24, "signal 24 (SIGXCPU): processor time used up (pixels.timeout)"),
            (63, "signal 63: see signal(7)"),
        ] {
            assert_eq!(cause(signal), expected);
        }
    }
}
