//! What a decode worker takes from itself before it sees the first untrusted byte.
//!
//! [`close_inherited`]: files that its parent left open; [`renounce`]: life beyond its parent, core dumps, capabilities
//! and new privileges, all files by path and all network by Landlock; [`enter`]: memory, time, and by seccomp
//! (`system_calls`) every system call that decoding does not need. Memory and time are limited on every kernel;
//! Landlock and seccomp where the kernel has them and lets a process use them. [`Protections`] says what is in force,
//! [`attempt`] tries it out. What remains is three open files: the socket to the node, the hand-over memory, and, for
//! one request each, the object.
//!
//! What a worker can take at most: `memory_max` of private memory beyond the program itself (RLIMIT_AS), the hand-over
//! memory's fixed size (`limits::OUTPUT_BYTES_MAX`), the processor time granted per request, and [`LIFE_REQUESTS`]
//! times that in its life. The first of these limits on time is soft: code that has taken the worker over could lift it
//! up to the second, which is hard, and which the node never lets an honest worker reach.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::net::UdpSocket;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, no_new_privs, set_capabilities, set_no_new_privs};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::limits::OUTPUT_BYTES_MAX;
use super::system_calls;

/// Standard streams, socket, hand-over memory, object, and some to spare.
const FILES_MAX: u64 = 16;
/// Requests of full length that the processor time of a worker's whole life covers.
pub const LIFE_REQUESTS: u64 = 16;

/// What is in force in a worker, beside the limits on memory and time that always are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protections {
    /// No program that it might start would gain rights.
    pub no_new_privs: bool,
    /// Version of the Landlock rules: no file by path; from 4 on no TCP; from 6 on no signals and no abstract sockets.
    pub landlock_abi: Option<u32>,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Why something of this is not in force.
    pub missing: Vec<String>,
}

/// Things that a worker may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    ReadFile,
    CreateFile,
    OpenSocket,
    StartProcess,
    ReplaceProgram,
    StartThread,
    /// More than was granted, for ever.
    RaiseProcessorTime,
    ExhaustMemory,
}

/// What came of an [`Attempt`] that its worker survived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The error's text.
    Refused(String),
    Granted,
}

/// Closes every descriptor but the standard streams: whoever started the node may have left files open to all that it
/// starts. Only for the beginning of a process.
#[allow(unsafe_code)]
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: called first of all in a worker, on its only thread: nothing in this process owns a descriptor yet but
    // the standard library its standard streams, which stay open. Plain numbers go in, no memory is touched.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } == 0 {
        return Ok(());
    }
    // kernels before 5.9; the folder itself is closed before anything of what it listed
    let listed = fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = listed.filter(|number| *number > 2).collect();
    for number in numbers {
        // SAFETY: as above; a number that is not open any more is an error that changes nothing.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// First half, before there is a second thread: capabilities and Landlock's rules are those of the calling thread and
/// of the threads that it starts.
pub fn renounce() -> io::Result<Protections> {
    // a worker of root's would otherwise be free to raise the limits that follow
    let none = CapabilitySet::empty();
    let denied = set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none });
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, FILES_MAX)?;
    // the hand-over memory is a file too, and the only one that can be written
    limit(Resource::Fsize, OUTPUT_BYTES_MAX)?;
    let mut protections = Protections::default();
    if let Err(why) = denied {
        protections.missing.push(format!("dropping capabilities: {why}"));
    }
    set_no_new_privs(true)?;
    protections.no_new_privs = no_new_privs()?;
    match deny_paths_and_network() {
        Ok(abi) => protections.landlock_abi = Some(abi),
        Err(why) => protections.missing.push(format!("Landlock: {why}")),
    }
    Ok(protections)
}

/// Second half, on the thread that decodes, when everything is set up. `memory_max` is granted beyond the address
/// space that the program maps at this moment: libtorch alone maps some hundred megabytes (with CUDA some gigabytes),
/// which cost nothing until they are used. `status` is `/proc/self/status`, opened while that was possible.
pub fn enter(memory_max: u64, cpu_seconds: u64, status: File, protections: &mut Protections) -> io::Result<()> {
    limit(Resource::As, mapped_bytes(status)?.saturating_add(memory_max))?;
    limit(Resource::Cpu, cpu_seconds.saturating_mul(LIFE_REQUESTS))?;
    match system_calls::restrict() {
        Ok(()) => protections.seccomp = true,
        Err(why) => protections.missing.push(format!("seccomp: {why}")),
    }
    Ok(())
}

/// Grants the next request its processor time.
pub fn grant_cpu(seconds: u64) -> io::Result<()> {
    let used = u64::try_from(clock_gettime(ClockId::ProcessCPUTime).tv_sec).unwrap_or_default();
    let maximum = getrlimit(Resource::Cpu).maximum;
    let wanted = used.saturating_add(seconds).saturating_add(1);
    let current = Some(maximum.map_or(wanted, |most| most.min(wanted)));
    Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
}

/// Tries it. What the filter of system calls kills does not return.
pub fn attempt(what: Attempt) -> Outcome {
    let result = match what {
        Attempt::ReadFile => File::open("/etc/passwd").map(drop),
        Attempt::CreateFile => {
            let path = std::env::temp_dir().join(format!("sidelight-probe-{}", std::process::id()));
            File::create_new(&path).and_then(|_| fs::remove_file(&path))
        }
        Attempt::OpenSocket => UdpSocket::bind("127.0.0.1:0").map(drop),
        Attempt::StartProcess => Command::new("/bin/true").status().map(drop),
        // comes back only if it failed
        Attempt::ReplaceProgram => Err(Command::new("/bin/true").exec()),
        Attempt::StartThread => thread::Builder::new().spawn(|| ()).map(drop),
        Attempt::RaiseProcessorTime => {
            setrlimit(Resource::Cpu, Rlimit { current: None, maximum: None }).map_err(io::Error::from)
        }
        Attempt::ExhaustMemory => exhaust_memory(),
    };
    match result {
        Ok(()) => Outcome::Granted,
        Err(e) => Outcome::Refused(e.to_string()),
    }
}

/// Ends with the process, unless there is no limit.
fn exhaust_memory() -> io::Result<()> {
    const BLOCK: usize = 1 << 20;
    // address space is what is limited: pages that nobody touches cost nothing
    let blocks: Vec<Vec<u8>> = (0..1 << 20).map(|_| std::hint::black_box(Vec::with_capacity(BLOCK))).collect();
    drop(blocks);
    Ok(())
}

/// No rule grants anything, so everything that the rules know is denied. Answers the version in force.
fn deny_paths_and_network() -> Result<u32, String> {
    // the newest version of which every part was seen at work
    let abi = ABI::V6;
    let restrict = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .restrict_self()
    };
    let status = restrict().map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("this kernel has none, or the container forbids it".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi.min(abi) as u32),
        (_, none) => Err(format!("{none:?}")),
    }
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    // a service manager may have set less already
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Address space in use (proc_pid_status: VmSize, in units of 1024 bytes).
fn mapped_bytes(mut status: File) -> io::Result<u64> {
    let mut text = String::new();
    status.rewind()?;
    status.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let number: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| io::Error::other("/proc/self/status holds no VmSize"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Landlock and seccomp hold for one thread: this one ends afterwards.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
    }

    #[test]
    fn landlock_alone_denies_files_and_from_version_4_on_tcp() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (abi, read, create, listen) = on_a_thread(|| {
            let abi = deny_paths_and_network();
            let (read, create) = (File::open("/etc/passwd"), File::create(folder.path().join("new")));
            (abi, read.map(drop), create.map(drop), TcpListener::bind("127.0.0.1:0").map(drop))
        });
        let denied =
            |result: &io::Result<()>| result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        assert_eq!((denied(&read), denied(&create)), (abi.is_ok(), abi.is_ok()), "{abi:?}");
        assert_eq!(denied(&listen), abi.as_ref().is_ok_and(|abi| *abi >= 4), "{abi:?}");
        assert!(File::open("/etc/passwd").is_ok(), "only that thread");
    }

    #[test]
    fn processor_time_is_granted_from_now_on() {
        grant_cpu(3600).expect("below any limit of a test run");
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
        let granted = getrlimit(Resource::Cpu).current.expect("a limit");
        assert!((used + 3600..=used + 3601).contains(&granted), "{granted} after {used}");
    }

    #[test]
    fn knows_its_own_address_space() {
        let mapped = || mapped_bytes(File::open("/proc/self/status").expect("procfs")).expect("a size");
        let before = mapped();
        // mapped, not used; other tests may give some back meanwhile
        let block = std::hint::black_box(vec![0u8; 1 << 30]);
        assert!(mapped() >= before + (1 << 29), "{} after {before}", mapped());
        drop(block);
    }
}
