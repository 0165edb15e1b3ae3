//! What a decode worker takes from itself before it sees the first untrusted byte.
//!
//! Memory, processor time, files, core dumps, and life beyond its parent. Left out: system call filters (seccomp)
//! and file access rules (Landlock), which the service manager or container adds for the whole node.

use std::fs;
use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};

/// Locks the process down. `memory_max` is granted beyond the address space that the program maps at this moment:
/// libtorch alone maps some hundred megabytes (with CUDA some gigabytes), which cost nothing until they are used.
pub fn enter(memory_max: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 16)?;
    limit(Resource::As, mapped_bytes()?.saturating_add(memory_max))
}

/// Grants the next request its processor time.
pub fn grant_cpu(seconds: u64) -> io::Result<()> {
    let current = Some(used_cpu_seconds()?.saturating_add(seconds).saturating_add(1));
    Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum: None })?)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Address space in use (proc_pid_status: VmSize, in units of 1024 bytes).
fn mapped_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let number: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| io::Error::other("/proc/self/status holds no VmSize"))
}

/// Processor time of all threads so far (proc_pid_stat: utime and stime, fields 14 and 15, in ticks of 10 ms).
fn used_cpu_seconds() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // the second field, the name in parentheses, may hold spaces
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|n| n.parse::<u64>().ok());
    match (ticks(14), ticks(15)) {
        (Some(user), Some(system)) => Ok((user + system) / 100),
        _ => Err(io::Error::other("/proc/self/stat holds no times")),
    }
}
