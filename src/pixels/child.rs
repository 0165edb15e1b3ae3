//! The node's end of one decode worker: its process, its socket, its hand-over memory.
//!
//! The node opens the object and passes the open file; it never reads it, and believes nothing of an answer: sizes,
//! counts, finiteness and lengths are checked against what it asked for, a refusal must be one that a decoder can give,
//! and texts are cut and cleaned before they reach a log or the index. Neighbours: `worker` (the pool) above,
//! `wire` (messages) and `handover` (values) below, `process` at the other end.
//!
//! A process is replaced after [`REQUESTS_PER_PROCESS`] requests; after most of the processor time of its life; at once
//! after an answer that makes no sense or a word that nobody asked for; and after an answer that says that a decoder
//! gave up, since its memory may be spoiled. The last not within [`AGE_MIN`] of its start: a flood of broken images
//! must not become a flood of process starts. Refusals of the pre-scan, which no decoder saw, replace nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;

use super::handover::Handover;
use super::part::frames_per_part;
use super::sandbox::{LIFE_REQUESTS, Outcome, Protections};
use super::wire::{self, Hello, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Ready, Reply, Task};
use super::{Frames, Part, Seen};
use crate::domain::{Contract, InstanceHeader, ModelInput, Refusal, RefusalCode, ReportRules, ResultDocument};

/// A worker is replaced after so many requests: whatever its decoders leak ends there.
const REQUESTS_PER_PROCESS: u32 = 500;
/// A start costs about .3 s of processor time (the relocations of libtorch): at most a sixth of one core.
const AGE_MIN: Duration = Duration::from_secs(2);
/// Characters of a worker's text that are kept.
const TEXT_MAX: usize = 512;

/// A running worker; dropping it kills it.
pub struct Process {
    child: Child,
    socket: UnixStream,
    handover: Handover,
    /// What the worker said that protects it; `None` until it has said so.
    protections: Option<Protections>,
    /// What has been read of the message that is on its way: a look that was cut short loses nothing.
    partial: Vec<u8>,
    started: Instant,
    served: u32,
    /// Time spent on requests, and how much of it there may be before the next; the process runs one thread at a
    /// time, so this is also the processor time that it can have used.
    busy: Duration,
    busy_max: Duration,
    /// A decoder in it gave up.
    confused: bool,
}

/// A worker's answer, checked.
pub enum Answer {
    Header(Box<InstanceHeader>),
    Results(Vec<Result<ResultDocument, String>>),
    Part(Part),
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
        // the allocator's thresholds stay as they are: set to keep 64 MiB blocks they gained at most 3 % of processor
        // time on images of 2500 × 2048 pixels, 11 % on 5200 × 4000, and every idle worker kept 42 MB in place of 2
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
        let process = Self {
            child,
            socket,
            handover,
            protections: None,
            partial: Vec::new(),
            started: Instant::now(),
            served: 0,
            busy: Duration::ZERO,
            // room for the start and for one more request
            busy_max: Duration::from_secs(hello.cpu_seconds.saturating_mul(LIFE_REQUESTS - 2)),
            confused: false,
        };
        let hello = wire::encode(hello, REQUEST_BYTES_MAX)?;
        match wire::send(&process.socket, &hello, Some(process.handover.as_fd())) {
            // it is gone already: why, is asked when it does not greet
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(process),
            sent => sent.map(|()| process),
        }
    }

    /// Whether it still runs, is silent and may serve another request.
    pub fn is_usable(&mut self) -> bool {
        let worn = self.served >= REQUESTS_PER_PROCESS || self.busy >= self.busy_max;
        if worn || (self.confused && self.started.elapsed() >= AGE_MIN) {
            return false;
        }
        let alive = matches!(self.child.try_wait(), Ok(None));
        // until it has greeted it has something to say
        let speaks = self.protections.is_some() && self.is_readable();
        if alive && speaks {
            tracing::warn!("a decode worker that spoke without being asked is replaced");
        }
        alive && !speaks
    }

    /// What protects it, as soon as it says so; `TimedOut` if that is not before the deadline.
    pub fn greeted(&mut self, deadline: Instant) -> io::Result<&Protections> {
        if self.protections.is_none() {
            let ready: Ready = self.receive(deadline)?;
            self.protections = Some(ready.protections);
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
        let started = Instant::now();
        let outcome = self.ask(task, object, deadline);
        self.served += 1;
        self.busy += started.elapsed();
        if let Ok(Err(refusal)) = &outcome {
            self.confused |= matches!(refusal.code, RefusalCode::DecodeFailed | RefusalCode::WorkerDied);
        }
        outcome
    }

    fn ask(&mut self, task: &Task, object: Option<&File>, deadline: Instant) -> io::Result<Result<Answer, Refusal>> {
        let Ok(bytes) = wire::encode(task, REQUEST_BYTES_MAX) else {
            return Ok(Err(Refusal::new(RefusalCode::TooLarge, "the request names too many contracts")));
        };
        self.greeted(deadline)?;
        if self.is_readable() {
            // nothing, if what is to be read is the end
            return match (&self.socket).read(&mut [0])? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Err(invalid("an answer before the question")),
            };
        }
        wire::send(&self.socket, &bytes, object.map(AsFd::as_fd))?;
        let reply: Reply = self.receive(deadline)?;
        let answer = match (reply, task) {
            (Reply::Refused(refusal), _) => Err(believed(refusal)?),
            (Reply::Header(header), Task::Header) => Ok(Answer::Header(header)),
            (Reply::Results(results), Task::Results(rules)) => Ok(Answer::Results(results_of(results, rules)?)),
            (Reply::Probed(outcome), Task::Probe(_)) => Ok(Answer::Probed(outcome)),
            (Reply::Normalised(seen), Task::Normalise { contracts, frames, from }) => {
                check_frames(&seen, *frames, *from, contracts)?;
                Ok(Answer::Part(self.collect(contracts, seen)?))
            }
            _ => return Err(invalid("an answer to another question")),
        };
        self.handover.trim()?;
        Ok(answer)
    }

    /// What is known of the end of a process that gave no answer, as a refusal with this code.
    pub fn epitaph(mut self, code: RefusalCode, error: &io::Error, timeout: Duration) -> Refusal {
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
        // it may quote the answer
        let detail = cleaned(&detail);
        tracing::warn!(detail, "decode worker replaced");
        Refusal::new(code, detail)
    }

    /// Copies the values out of the hand-over memory, as many as the question makes possible, all of them finite.
    fn collect(&self, contracts: &[Contract], seen: Seen) -> io::Result<Part> {
        let mut inputs = Vec::with_capacity(contracts.len());
        let mut at = 0;
        for (contract, refused) in contracts.iter().zip(seen.refused) {
            let bytes = contract.plane_len() as u64 * 4;
            inputs.push(match refused {
                Some(refusal) => Err(believed(refusal)?),
                None => {
                    let digest = contract.digest();
                    let input = |nth| {
                        let plane = self.handover.read(at + nth * bytes, contract.plane_len())?;
                        Ok(ModelInput { contract: digest.clone(), plane })
                    };
                    Ok((0..seen.frames.len() as u64).map(input).collect::<io::Result<_>>()?)
                }
            });
            at += seen.frames.len() as u64 * bytes;
        }
        Ok(Part { chosen: seen.chosen, frames: seen.frames, inputs })
    }

    /// The next message; what has come of it by the deadline is kept for the next call.
    fn receive<M: DeserializeOwned>(&mut self, deadline: Instant) -> io::Result<M> {
        let Self { socket, partial, .. } = self;
        let message = wire::read(UntilDeadline { socket: &*socket, partial, at: 0, deadline }, REPLY_BYTES_MAX)?;
        self.partial.clear();
        message.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Whether there is something to read now, be it the end.
    fn is_readable(&self) -> bool {
        wait_readable(&self.socket, Instant::now()).is_ok()
    }
}

/// `TimedOut` if there is nothing to read before the deadline.
fn wait_readable(socket: &UnixStream, deadline: Instant) -> io::Result<()> {
    loop {
        let remain = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remain).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
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

/// A message that is read no longer than until the deadline: first what came of it before, then the socket.
struct UntilDeadline<'a> {
    socket: &'a UnixStream,
    partial: &'a mut Vec<u8>,
    at: usize,
    deadline: Instant,
}

impl Read for UntilDeadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.partial.get(self.at..) {
            Some(before) if !before.is_empty() => (&mut &*before).read(buffer)?,
            _ => {
                wait_readable(self.socket, self.deadline)?;
                let count = self.socket.read(buffer)?;
                self.partial.extend_from_slice(&buffer[..count]);
                count
            }
        };
        self.at += count;
        Ok(count)
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

/// A refusal that a decoder can give. Others would make an image vanish (it is a report of our own, it is no image) or
/// come back for ever (no worker can be started): only the node itself may say so.
fn believed(refusal: Refusal) -> io::Result<Refusal> {
    use RefusalCode::*;
    match refusal.code {
        Malformed | Inconsistent | NoPixels | UnsupportedFormat | DecodeFailed | TooLarge | OutOfScope | WorkerDied => {
            Ok(Refusal::new(refusal.code, cleaned(&refusal.detail)))
        }
        Lost | WorkerUnavailable | OwnReport | NotAnImage | ClinicalResult | ModelFailed | PatientMismatch
        | NothingToAnalyse => Err(invalid(&format!("a refusal as {}, which is not a worker's to give", refusal.code))),
    }
}

/// What a report says, as far as it was asked for: findings of the rules, numbers within their limits, clean texts.
fn results_of(
    results: Vec<Result<ResultDocument, String>>,
    rules: &[ReportRules],
) -> io::Result<Vec<Result<ResultDocument, String>>> {
    use super::result::{IMAGES_MAX, PREDECESSORS_MAX, SAID_MAX, TEXT_MAX as DEVICE_TEXT_MAX};
    if results.len() != rules.len() {
        return Err(invalid("answers to other rules"));
    }
    let checked = results.into_iter().zip(rules).map(|(result, rules)| {
        let mut document = match result {
            Ok(document) => document,
            Err(reason) => return Ok(Err(cleaned(&reason))),
        };
        let asked = |finding: &String| rules.findings.iter().any(|rule| rule.key == *finding);
        if document.said.len() > SAID_MAX
            || document.predecessors.len() > PREDECESSORS_MAX
            || document.said.iter().any(|s| s.images.len() > IMAGES_MAX || !asked(&s.finding))
        {
            return Err(invalid("statements that were not asked for"));
        }
        let device = &mut document.device;
        let texts = [&mut device.manufacturer, &mut device.model_name, &mut device.serial_number];
        for text in texts.into_iter().chain(&mut device.software_versions) {
            *text = cleaned(text).chars().take(DEVICE_TEXT_MAX).collect();
        }
        Ok(Ok(document))
    });
    checked.collect()
}

/// The text, cut to [`TEXT_MAX`] characters; what would break a line or turn its direction becomes a question mark.
fn cleaned(text: &str) -> String {
    let unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
    };
    text.chars().take(TEXT_MAX).map(|c| if unseen(c) { '?' } else { c }).collect()
}

/// Frames that were asked for, as many as a part has, and an answer for every contract.
fn check_frames(seen: &Seen, frames: Frames, from: u32, contracts: &[Contract]) -> io::Result<()> {
    let most = match frames {
        Frames::First | Frames::Middle => 1,
        Frames::All { max } => max.max(1),
    };
    let expected = (seen.chosen.saturating_sub(from) as usize).min(frames_per_part(contracts));
    let ascending = seen.frames.is_sorted_by(|a, b| a.number < b.number);
    if seen.chosen > most || expected == 0 || seen.frames.len() != expected || !ascending {
        return Err(invalid("frames that were not asked for"));
    }
    match seen.refused.len() == contracts.len() {
        true => Ok(()),
        false => Err(invalid("answers to other contracts")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
#[path = "tests/child.rs"]
mod tests;
