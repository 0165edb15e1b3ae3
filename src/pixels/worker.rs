//! The pool of decode workers: sandboxed processes of this binary, one request at a time each.
//!
//! One thread per worker owns its process: it starts it, writes the request, reads the answer against a deadline,
//! kills and replaces what is late, dead or talks nonsense. The parent never opens the object and believes nothing of
//! an answer: sizes, counts, finiteness and lengths are checked against what it asked for. A request whose future
//! was dropped is finished by its worker and thrown away. Neighbours: `process` is the other end of the pipe.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::limits::output_bytes;
use super::wire::{self, Hello, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, Task};
use super::{Frames, Limits, Normalised};
use crate::config;
use crate::domain::{Contract, InstanceHeader, ModelInput, Refusal, RefusalCode};

/// A worker is replaced after so many requests: whatever its decoders leak ends there.
const REQUESTS_PER_PROCESS: u32 = 500;

/// A handle to the pool; clones share it. The processes end when the last handle is dropped.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<Pool>,
}

struct Pool {
    queue: Arc<Queue>,
    /// One permit per worker: a caller waits here, so the queue never holds more than there are workers.
    free: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Result<Answer, Refusal>>,
    _permit: OwnedSemaphorePermit,
}

enum Answer {
    Header(Box<InstanceHeader>),
    Normalised(Normalised),
}

impl Workers {
    /// Starts the pool. `exe` must enter [`worker_main`](super::worker_main) when its only argument is `__worker`. A
    /// process that cannot be started refuses the request that needed it, with the cause.
    pub fn start(settings: &config::Pixels, exe: PathBuf) -> Self {
        let count = settings.workers.max(1);
        let queue = Arc::new(Queue::default());
        let hello = Hello {
            memory_max: settings.memory_max,
            cpu_seconds: settings.timeout.as_secs().max(1),
            limits: Limits::from(settings),
        };
        for n in 0..count {
            let (queue, slot) = (queue.clone(), Slot::new(exe.clone(), hello.clone(), settings.timeout));
            let thread = thread::Builder::new().name(format!("decode-{n}"));
            if let Err(e) = thread.spawn(move || slot.run(&queue)) {
                tracing::error!(error = %e, "a decode worker's thread could not be started");
            }
        }
        Self { pool: Arc::new(Pool { queue, free: Arc::new(Semaphore::new(count)) }) }
    }

    /// Reads the header of the object at `path`.
    pub async fn read_header(&self, path: &Path) -> Result<InstanceHeader, Refusal> {
        match self.ask(path, Task::Header).await? {
            Answer::Header(header) => Ok(*header),
            Answer::Normalised(_) => Err(nonsense("an image where a header was asked for")),
        }
    }

    /// Decodes the object at `path` and brings the chosen frames to each of the contracts.
    pub async fn normalise(&self, path: &Path, contracts: &[Contract], frames: Frames) -> Result<Normalised, Refusal> {
        let task = Task::Normalise { contracts: contracts.to_vec(), frames };
        match self.ask(path, task).await? {
            Answer::Normalised(normalised) => Ok(normalised),
            Answer::Header(_) => Err(nonsense("a header where an image was asked for")),
        }
    }

    async fn ask(&self, path: &Path, task: Task) -> Result<Answer, Refusal> {
        let closed = |_| Refusal::new(RefusalCode::WorkerDied, "the decode workers have ended");
        let path = std::path::absolute(path).map_err(|e| {
            Refusal::new(RefusalCode::Malformed, format!("the path of the object cannot be resolved: {e}"))
        })?;
        let permit = self.pool.free.clone().acquire_owned().await.map_err(|e| closed(e.to_string()))?;
        let request = Request { path: path.as_os_str().as_bytes().to_vec(), task };
        let (answer, receiver) = oneshot::channel();
        self.pool.queue.push(Job { request, answer, _permit: permit });
        receiver.await.map_err(|e| closed(e.to_string()))?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut jobs = self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.1 = true;
        drop(jobs);
        self.queue.wake.notify_all();
    }
}

impl Queue {
    fn push(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(job);
        self.wake.notify_one();
    }

    /// The next job, waited for; `None` once the pool was dropped and nothing is left.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 {
                return None;
            }
            jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One thread's place for one process after another.
struct Slot {
    exe: PathBuf,
    hello: Hello,
    timeout: Duration,
    process: Option<Process>,
}

impl Slot {
    fn new(exe: PathBuf, hello: Hello, timeout: Duration) -> Self {
        Self { exe, hello, timeout, process: None }
    }

    fn run(mut self, queue: &Queue) {
        // started before it is needed; a failure shows with the first request
        self.process = Process::start(&self.exe, &self.hello).ok();
        while let Some(job) = queue.next() {
            if job.answer.is_closed() {
                continue;
            }
            let outcome = self.serve(&job.request);
            // the receiver may be gone: then nobody wants to know
            let _ = job.answer.send(outcome);
        }
    }

    fn serve(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let usable = self.process.as_mut().is_some_and(Process::is_usable);
        let mut process = match self.process.take() {
            Some(process) if usable => process,
            _ => Process::start(&self.exe, &self.hello).map_err(|e| {
                Refusal::new(RefusalCode::WorkerDied, format!("the decode worker could not be started: {e}"))
            })?,
        };
        match process.exchange(request, Instant::now() + self.timeout) {
            Ok(outcome) => {
                self.process = Some(process);
                outcome
            }
            // the process is dropped here, which kills it; the next request starts another
            Err(e) => Err(process.epitaph(&e, self.timeout)),
        }
    }
}

/// A running worker; dropping it kills it.
struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    served: u32,
}

impl Process {
    fn start(exe: &Path, hello: &Hello) -> io::Result<Self> {
        let mut command = Command::new(exe);
        command.arg("__worker").env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C in a terminal goes to the group: what is being decoded ends with the node, not before it
        command.process_group(0);
        // where the binary was built without a run path, the loader needs to know where libtorch is
        if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the worker has no pipes"));
        };
        let mut process = Self { child, input, output, served: 0 };
        wire::write(&mut process.input, hello, REQUEST_BYTES_MAX)?;
        Ok(process)
    }

    /// Whether it still runs and has not served its number of requests.
    fn is_usable(&mut self) -> bool {
        self.served < REQUESTS_PER_PROCESS && matches!(self.child.try_wait(), Ok(None))
    }

    /// One request and its answer. An error means that the process is of no use any more.
    fn exchange(&mut self, request: &Request, deadline: Instant) -> io::Result<Result<Answer, Refusal>> {
        self.served += 1;
        let Ok(bytes) = wire::encode(request, REQUEST_BYTES_MAX) else {
            return Ok(Err(Refusal::new(RefusalCode::TooLarge, "the request names too many contracts")));
        };
        self.input.write_all(&bytes)?;
        let mut output = UntilDeadline { output: &mut self.output, deadline };
        let reply: Option<Reply> = wire::read(&mut output, REPLY_BYTES_MAX)?;
        let reply = reply.ok_or(io::ErrorKind::UnexpectedEof)?;
        match (reply, &request.task) {
            (Reply::Refused(refusal), _) => Ok(Err(refusal)),
            (Reply::Header(header), Task::Header) => Ok(Ok(Answer::Header(header))),
            (Reply::Normalised { pixel_digest, frames }, Task::Normalise { contracts, frames: chosen }) => {
                let inputs = read_inputs(&mut output, contracts, &frames, *chosen)?;
                Ok(Ok(Answer::Normalised(Normalised { pixel_digest, frames, inputs })))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question")),
        }
    }

    /// What is known of the end of a process that gave no answer.
    fn epitaph(mut self, error: &io::Error, timeout: Duration) -> Refusal {
        let detail = match error.kind() {
            io::ErrorKind::TimedOut => format!("no answer from the decode worker within {} s", timeout.as_secs_f32()),
            io::ErrorKind::InvalidData => format!("the decode worker's answer makes no sense: {error}"),
            _ => {
                let _ = self.child.kill();
                match self.child.wait().map(|status| (status.signal(), status.code())) {
                    Ok((Some(signal), _)) => format!("the decode worker ended with signal {signal}: {}", cause(signal)),
                    Ok((_, Some(code))) => format!("the decode worker ended with exit code {code}"),
                    _ => format!("the decode worker gave no answer: {error}"),
                }
            }
        };
        tracing::warn!(detail, "decode worker replaced");
        Refusal::new(RefusalCode::WorkerDied, detail)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cause(signal: i32) -> &'static str {
    match signal {
        6 => "out of memory (pixels.memory_max), or a fault in a decoder",
        9 => "killed, perhaps by the system for want of memory",
        11 | 7 | 4 => "a fault in a decoder",
        24 => "processor time used up (pixels.timeout)",
        _ => "see signal(7)",
    }
}

/// The floats behind an answer, as many as the question makes possible and all of them finite.
fn read_inputs(
    input: &mut impl Read,
    contracts: &[Contract],
    frames: &[u32],
    chosen: Frames,
) -> io::Result<Vec<ModelInput>> {
    let nonsense = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let most = match chosen {
        Frames::First | Frames::Middle => 1,
        Frames::All { max } => max.max(1) as usize,
    };
    if frames.is_empty() || frames.len() > most || !frames.is_sorted_by(|a, b| a < b) {
        return nonsense("frames that were not asked for");
    }
    if output_bytes(frames.len(), contracts) > super::limits::OUTPUT_BYTES_MAX {
        return nonsense("more values than an image may have");
    }
    let mut inputs = Vec::new();
    for contract in contracts {
        let digest = contract.digest();
        for _ in frames {
            let mut bytes = vec![0; contract.len() * 4];
            input.read_exact(&mut bytes)?;
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if values.iter().any(|v| !v.is_finite()) {
                return nonsense("values that are not finite");
            }
            inputs.push(ModelInput { contract: digest.clone(), values });
        }
    }
    Ok(inputs)
}

fn nonsense(what: &str) -> Refusal {
    Refusal::new(RefusalCode::WorkerDied, format!("the decode worker sent {what}"))
}

/// A pipe that is read no longer than until the deadline.
struct UntilDeadline<'a> {
    output: &'a mut ChildStdout,
    deadline: Instant,
}

impl Read for UntilDeadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let remain = self.deadline.saturating_duration_since(Instant::now());
            if remain.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec::try_from(remain).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(self.output, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return self.output.read(buffer),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
