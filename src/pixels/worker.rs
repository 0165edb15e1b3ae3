//! The pool of decode workers: sandboxed processes of this binary, one request at a time each.
//!
//! One thread per worker owns its process: it starts it, opens the object and passes it on, waits for the answer until
//! a deadline, kills and replaces what is late, dead or talks nonsense. A request whose future was dropped is finished
//! by its worker and thrown away. Neighbours: `child` is one process, `process` what runs in it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::child::{Answer, Process};
use super::sandbox::{Attempt, Outcome, Protections};
use super::wire::{Hello, Task};
use super::{Frames, Limits, Normalised, open_file};
use crate::config;
use crate::domain::{Contract, InstanceHeader, Refusal, RefusalCode};

/// How often a thread that waits for its process to start looks whether something is asked of it.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A handle to the pool; clones share it. The processes end when the last handle is dropped.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<Pool>,
}

struct Pool {
    queue: Arc<Queue>,
    /// One permit per worker: a caller waits here, so the queue never holds more than there are workers.
    free: Arc<Semaphore>,
    protections: Arc<OnceLock<Protections>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
}

struct Job {
    /// The object; a probe has none.
    path: Option<PathBuf>,
    task: Task,
    answer: oneshot::Sender<Result<Answer, Refusal>>,
    _permit: OwnedSemaphorePermit,
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
        let protections = Arc::new(OnceLock::new());
        for n in 0..count {
            let slot = Slot {
                exe: exe.clone(),
                hello: hello.clone(),
                timeout: settings.timeout,
                protections: protections.clone(),
                process: None,
            };
            let queue = queue.clone();
            let thread = thread::Builder::new().name(format!("decode-{n}"));
            if let Err(e) = thread.spawn(move || slot.run(&queue)) {
                tracing::error!(error = %e, "a decode worker's thread could not be started");
            }
        }
        Self { pool: Arc::new(Pool { queue, free: Arc::new(Semaphore::new(count)), protections }) }
    }

    /// Reads the header of the object at `path`.
    pub async fn read_header(&self, path: &Path) -> Result<InstanceHeader, Refusal> {
        match self.ask(Some(path), Task::Header).await? {
            Answer::Header(header) => Ok(*header),
            _ => Err(nonsense("something else where a header was asked for")),
        }
    }

    /// Decodes the object at `path` and brings the chosen frames to each of the contracts.
    pub async fn normalise(&self, path: &Path, contracts: &[Contract], frames: Frames) -> Result<Normalised, Refusal> {
        let task = Task::Normalise { contracts: contracts.to_vec(), frames };
        match self.ask(Some(path), task).await? {
            Answer::Normalised(normalised) => Ok(normalised),
            _ => Err(nonsense("something else where an image was asked for")),
        }
    }

    /// Lets a worker try what it may not do. A [`RefusalCode::WorkerDied`] says that the attempt killed it.
    pub async fn probe(&self, attempt: Attempt) -> Result<Outcome, Refusal> {
        match self.ask(None, Task::Probe(attempt)).await? {
            Answer::Probed(outcome) => Ok(outcome),
            _ => Err(nonsense("something else where a probe was asked for")),
        }
    }

    /// What protects this machine from its workers; `None` until the first of them has started.
    pub fn protections(&self) -> Option<Protections> {
        self.pool.protections.get().cloned()
    }

    async fn ask(&self, path: Option<&Path>, task: Task) -> Result<Answer, Refusal> {
        let closed = |_| Refusal::new(RefusalCode::WorkerDied, "the decode workers have ended");
        let permit = self.pool.free.clone().acquire_owned().await.map_err(|e| closed(e.to_string()))?;
        let (answer, receiver) = oneshot::channel();
        self.pool.queue.push(Job { path: path.map(Path::to_owned), task, answer, _permit: permit });
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

    /// Whether nothing is asked and more may come.
    fn is_idle(&self) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.0.is_empty() && !jobs.1
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
    /// What the first worker of the pool said; said once in the log.
    protections: Arc<OnceLock<Protections>>,
    process: Option<Process>,
}

impl Slot {
    fn run(mut self, queue: &Queue) {
        // started before it is needed; a failure shows with the first request
        self.process = Process::start(&self.exe, &self.hello, self.timeout).ok();
        let started = Instant::now();
        while queue.is_idle() && started.elapsed() < self.timeout && !self.is_settled() {}
        while let Some(job) = queue.next() {
            if job.answer.is_closed() {
                continue;
            }
            let outcome =
                job.path.as_deref().map(open_file).transpose().and_then(|object| self.serve(&job.task, object));
            // the receiver may be gone: then nobody wants to know
            let _ = job.answer.send(outcome);
        }
    }

    /// Waits a moment for a new process to say what protects it. Whether there is nothing left to wait for.
    fn is_settled(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        match process.greeted(Instant::now() + LOOK_UP) {
            Ok(protections) => {
                tell_once(&self.protections, protections);
                true
            }
            Err(e) => e.kind() != io::ErrorKind::TimedOut,
        }
    }

    fn serve(&mut self, task: &Task, object: Option<File>) -> Result<Answer, Refusal> {
        let usable = self.process.as_mut().is_some_and(Process::is_usable);
        let mut process = match self.process.take() {
            Some(process) if usable => process,
            _ => Process::start(&self.exe, &self.hello, self.timeout).map_err(|e| {
                Refusal::new(RefusalCode::WorkerUnavailable, format!("the decode worker could not be started: {e}"))
            })?,
        };
        let deadline = Instant::now() + self.timeout;
        let outcome = process.greeted(deadline).map(|protections| tell_once(&self.protections, protections));
        match outcome.and_then(|()| process.exchange(task, object.as_ref(), deadline)) {
            Ok(outcome) => {
                self.process = Some(process);
                outcome
            }
            // the process is dropped here, which kills it; the next request starts another
            Err(e) => Err(process.epitaph(&e, self.timeout)),
        }
    }
}

/// Says once per pool what stands between an object and this machine.
fn tell_once(told: &OnceLock<Protections>, protections: &Protections) {
    if told.set(protections.clone()).is_err() {
        return;
    }
    let Protections { no_new_privs, landlock_abi, seccomp, missing } = protections;
    if missing.is_empty() {
        tracing::info!(no_new_privs, landlock_abi, seccomp, "decode workers are locked in");
    } else {
        let missing = missing.join("; ");
        tracing::warn!(no_new_privs, landlock_abi, seccomp, missing, "decode workers lack some protection");
    }
}

fn nonsense(what: &str) -> Refusal {
    Refusal::new(RefusalCode::WorkerDied, format!("the decode worker sent {what}"))
}
