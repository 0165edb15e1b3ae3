//! The pool of decode workers: sandboxed processes of this binary, one request at a time each.
//!
//! One thread per worker owns its process: it starts it, opens the object and passes it on, waits for the answer until
//! a deadline, kills and replaces what is late, dead or talks nonsense, or may not be used on (`child`). A request
//! whose future was dropped is finished by its worker and thrown away. A process that does not come so far as to greet
//! has seen no object: that is trouble of the node. Neighbours: `child` is one process, `process` what runs in it.

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
use super::{Frames, Limits, Normalised, Part, Parts, open_file, part};
use crate::config;
use crate::domain::{Contract, InstanceHeader, Refusal, RefusalCode, ReportRules, ResultDocument};

/// How often a thread that waits for its process to start looks whether something is asked of it.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A handle to the pool; clones share it. The processes end when the last handle is dropped.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<Pool>,
}

struct Pool {
    queue: Arc<Queue>,
    /// One permit per thread that runs: a caller waits here, so the queue never holds more than there are workers.
    /// Closed if there is none.
    free: Arc<Semaphore>,
    protections: Arc<OnceLock<Protections>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
}

struct Job {
    work: Work,
    permit: OwnedSemaphorePermit,
}

enum Work {
    /// `path`: the object; a probe has none.
    One { path: Option<PathBuf>, task: Task, answer: oneshot::Sender<Result<Answer, Refusal>> },
    /// Headers take no time beside an image: many of them wait for their turn once.
    Headers { paths: Vec<PathBuf>, answer: oneshot::Sender<Vec<Result<Answer, Refusal>>> },
}

impl Workers {
    /// Starts the pool. `exe` must enter [`worker_main`](super::worker_main) when its only argument is `__worker`. A
    /// process that cannot be started refuses the request that needed it, with the cause.
    pub fn start(settings: &config::Pixels, exe: PathBuf) -> Self {
        Self::start_on(settings, exe, |name, work| thread::Builder::new().name(name).spawn(work).map(drop))
    }

    /// As [`Workers::start`], on threads that `spawn` starts.
    fn start_on(
        settings: &config::Pixels,
        exe: PathBuf,
        spawn: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let hello = Hello {
            memory_max: settings.memory_max,
            cpu_seconds: settings.timeout.as_secs().max(1),
            limits: Limits::from(settings),
        };
        let protections = Arc::new(OnceLock::new());
        let mut started = 0;
        for n in 0..settings.workers.max(1) {
            let slot = Slot {
                exe: exe.clone(),
                hello: hello.clone(),
                timeout: settings.timeout,
                protections: protections.clone(),
                process: None,
            };
            let queue = queue.clone();
            match spawn(format!("decode-{n}"), Box::new(move || slot.run(&queue))) {
                Ok(()) => started += 1,
                Err(e) => tracing::error!(error = %e, "a decode worker's thread could not be started"),
            }
        }
        let free = Arc::new(Semaphore::new(started));
        if started == 0 {
            free.close();
        }
        Self { pool: Arc::new(Pool { queue, free, protections }) }
    }

    /// Reads the header of the object at `path`.
    pub async fn read_header(&self, path: &Path) -> Result<InstanceHeader, Refusal> {
        match self.ask(Some(path), Task::Header).await? {
            Answer::Header(header) => Ok(*header),
            _ => Err(nonsense("something else where a header was asked for")),
        }
    }

    /// Reads the headers of these objects one after the other, as one request of the pool, of as many of the first as
    /// there is time for: none is begun after the time limit of one, nor without a worker that starts.
    pub async fn read_headers(&self, paths: Vec<PathBuf>) -> Vec<Result<InstanceHeader, Refusal>> {
        let (answer, answers) = oneshot::channel();
        let pushed = self.push(Work::Headers { paths, answer }).await;
        let header = |answer| match answer? {
            Answer::Header(header) => Ok(*header),
            _ => Err(nonsense("something else where a header was asked for")),
        };
        let answers = if pushed.is_ok() { answers.await.unwrap_or_default() } else { Vec::new() };
        answers.into_iter().map(header).collect()
    }

    /// Reads what the report at `path` says by each of these rules, or why nothing.
    pub async fn read_results(
        &self,
        path: &Path,
        rules: &[ReportRules],
    ) -> Result<Vec<Result<ResultDocument, String>>, Refusal> {
        match self.ask(Some(path), Task::Results(rules.to_vec())).await? {
            Answer::Results(results) => Ok(results),
            _ => Err(nonsense("something else where a report was asked for")),
        }
    }

    /// Decodes the object at `path` and brings the chosen frames to each of the contracts; refused if one of them is.
    pub async fn normalise(&self, path: &Path, contracts: &[Contract], frames: Frames) -> Result<Normalised, Refusal> {
        let (mut coming, mut parts) = (self.parts(path, contracts, frames), Vec::new());
        while let Some(part) = coming.next().await {
            parts.push(part?);
        }
        part::whole(parts)
    }

    /// The same a part at a time; what one contract cannot have, others may.
    pub fn parts(&self, path: &Path, contracts: &[Contract], frames: Frames) -> Parts {
        Parts::of(self.clone(), path, contracts, frames)
    }

    /// The part of the image that begins with the chosen frame of this index.
    pub(super) async fn part(
        &self,
        path: &Path,
        contracts: &[Contract],
        frames: Frames,
        from: u32,
    ) -> Result<Part, Refusal> {
        let task = Task::Normalise { contracts: contracts.to_vec(), frames, from };
        match self.ask(Some(path), task).await? {
            Answer::Part(part) => Ok(part),
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
        let (answer, receiver) = oneshot::channel();
        self.push(Work::One { path: path.map(Path::to_owned), task, answer }).await?;
        receiver.await.map_err(|_| ended())?
    }

    async fn push(&self, work: Work) -> Result<(), Refusal> {
        let none = "no thread for a decode worker could be started: is a limit on threads too low?";
        let permit = self.pool.free.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Refusal::new(RefusalCode::WorkerUnavailable, none))?;
        self.pool.queue.push(Job { work, permit });
        Ok(())
    }
}

fn ended() -> Refusal {
    Refusal::new(RefusalCode::WorkerDied, "the decode workers have ended")
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
        self.prepare();
        let started = Instant::now();
        while queue.is_idle() && started.elapsed() < self.timeout && !self.is_settled() {}
        while let Some(Job { work, permit }) = queue.next() {
            // the receiver may be gone: then nobody wants to know
            match work {
                Work::One { answer, .. } if answer.is_closed() => continue,
                Work::One { path, task, answer } => drop(answer.send(self.serve_file(&task, path.as_deref()))),
                Work::Headers { paths, answer } => {
                    let deadline = Instant::now() + self.timeout;
                    let wanted = paths.iter().take_while(|_| !answer.is_closed() && Instant::now() < deadline);
                    let read = wanted.map(|path| self.serve_file(&Task::Header, Some(path)));
                    let of_objects = |read: &Result<_, Refusal>| {
                        !read.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::WorkerUnavailable)
                    };
                    let headers = read.take_while(of_objects).collect();
                    drop(answer.send(headers));
                }
            }
            drop(permit);
            self.prepare();
        }
    }

    fn serve_file(&mut self, task: &Task, path: Option<&Path>) -> Result<Answer, Refusal> {
        let object = path.map(open_file).transpose()?;
        self.serve(task, object)
    }

    /// Sees to it that the next request need not wait for a process to start; a failure shows with that request.
    fn prepare(&mut self) {
        if !self.process.as_mut().is_some_and(Process::is_usable) {
            self.process = None;
            self.process = Process::start(&self.exe, &self.hello, self.timeout).ok();
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
        match process.greeted(deadline) {
            Ok(protections) => tell_once(&self.protections, protections),
            Err(e) => return Err(process.epitaph(RefusalCode::WorkerUnavailable, &e, self.timeout)),
        }
        match process.exchange(task, object.as_ref(), deadline) {
            Ok(outcome) => {
                self.process = Some(process);
                outcome
            }
            // the process is dropped here, which kills it; the next request starts another
            Err(e) => Err(process.epitaph(RefusalCode::WorkerDied, &e, self.timeout)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(workers: usize) -> config::Pixels {
        config::Pixels { workers, timeout: Duration::from_secs(10), memory_max: 1 << 30, samples_max: 1 << 28 }
    }

    #[tokio::test]
    async fn without_a_thread_every_question_is_answered_and_says_why() {
        let workers =
            Workers::start_on(&settings(3), "/bin/false".into(), |_, _| Err(io::ErrorKind::WouldBlock.into()));
        for _ in 0..4 {
            let refusal = workers.read_header(Path::new("/")).await.expect_err("no worker");
            assert_eq!(refusal.code, RefusalCode::WorkerUnavailable);
            assert!(refusal.detail.contains("thread"), "{refusal}");
        }
    }

    #[tokio::test]
    async fn there_are_as_many_permits_as_threads() {
        for running in 1..=3 {
            let workers = Workers::start_on(&settings(3), "/bin/false".into(), |name, work| {
                if name.ends_with(|n: char| n.to_digit(10).is_some_and(|n| n < running)) {
                    return thread::Builder::new().spawn(work).map(drop);
                }
                Err(io::ErrorKind::WouldBlock.into())
            });
            assert_eq!(workers.pool.free.available_permits(), running as usize);
            let refusal = workers.probe(Attempt::ReadFile).await.expect_err("no worker");
            assert_eq!(refusal.code, RefusalCode::WorkerUnavailable, "{refusal}");
            assert!(refusal.detail.contains("exit code 1"), "{refusal}");
        }
    }
}
