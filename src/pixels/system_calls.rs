//! Which system calls a decode worker may make (seccomp), for x86-64 and 64-bit Arm.
//!
//! Three filters, of which the strictest verdict counts:
//! 1. What serves nothing but an attack (network, programs, processes, tracing, kernel modules, namespaces) kills the
//!    process. Code that asks for this is not in our hands any more and shall not run on.
//! 2. `clone3` answers "no such call", since a filter cannot see its arguments; libraries fall back to `clone`.
//! 3. What decoding needs is allowed: memory that is not executable, clocks, the files that are open, an end. All else
//!    answers EPERM, new threads (no decoder starts one) and the masking of signals (the limit on processor time speaks
//!    by one) among it: the C library and codecs ask for optional things in good faith (the number of processors
//!    from /sys, the allocator for /proc/sys/vm), take no for an answer, and gain nothing by asking.
//!
//! Neighbour: `sandbox`, which calls [`restrict`] last. On other processors there is no filter and [`restrict`] fails.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, BpfProgramRef, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Filters the system calls of all threads of this process, and those of threads that they start, for ever.
pub fn restrict() -> Result<(), String> {
    install(apply_filter_all_threads)
}

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Allowed with any arguments.
const NEEDED: &[libc::c_long] = &[
    // the files that are open
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    // the socket to the node
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // the two threads that there are
    libc::SYS_clone3, // answered by the second filter
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    // time, chance, signals, the end
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Killed, with any arguments.
const HOSTILE: &[libc::c_long] = &[
    // network
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // programs and processes
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // the kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    // who and where it is
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
];

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;

/// Allowed with these arguments.
fn conditional_grants() -> Result<Rules, String> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let own = u64::from(std::process::id());
    Ok(vec![
        // memory that can never hold code
        (libc::SYS_mmap, vec![rule(&[(2, MaskedEq(PROT_EXEC), 0)])?]),
        (libc::SYS_mprotect, vec![rule(&[(2, MaskedEq(PROT_EXEC), 0)])?]),
        (libc::SYS_prctl, vec![rule(&[(0, Eq, libc::PR_SET_NAME as u64)])?]),
        // a crash: the standard library's handlers give way to the system's, which end the process
        (
            libc::SYS_rt_sigaction,
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT].map(signal).into_iter().collect::<Result<_, _>>()?,
        ),
        // the processor time of the next request; the hard limit can only be lowered
        (libc::SYS_prlimit64, vec![rule(&[(0, Eq, 0), (1, Eq, u64::from(libc::RLIMIT_CPU))])?]),
        // abort(), which says why it ends
        (libc::SYS_tgkill, vec![rule(&[(0, Eq, own), (2, Eq, libc::SIGABRT as u64)])?]),
    ])
}

/// The first argument is this signal.
fn signal(number: libc::c_int) -> Result<SeccompRule, String> {
    rule(&[(0, SeccompCmpOp::Eq, number as u64)])
}

/// Killed with these arguments.
fn conditional_kills() -> Result<Rules, String> {
    // a new process, not a thread
    Ok(vec![(libc::SYS_clone, vec![rule(&[(0, SeccompCmpOp::MaskedEq(CLONE_THREAD), 0)])?])])
}

/// All of (number of the argument, comparison, value); 32 bits of each count, as the kernel takes these arguments.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, String> {
    let conditions = conditions.iter().map(|(argument, comparison, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, comparison.clone(), *value)
    });
    let conditions = conditions.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    SeccompRule::new(conditions).map_err(|e| e.to_string())
}

fn install(apply: impl Fn(BpfProgramRef) -> seccompiler::Result<()>) -> Result<(), String> {
    let programs = [
        program(HOSTILE, conditional_kills()?, SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(&[libc::SYS_clone3], Vec::new(), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        // the last, because it does not allow the installation of another
        program(NEEDED, conditional_grants()?, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?,
    ];
    programs.iter().try_for_each(|program| apply(program).map_err(|e| e.to_string()))
}

fn program(
    calls: &[libc::c_long],
    conditional: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, String> {
    let processor = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let any = calls.iter().map(|call| (*call, Vec::new()));
    let rules: BTreeMap<i64, Vec<SeccompRule>> = any.chain(conditional).collect();
    let filter = SeccompFilter::new(rules, otherwise, matched, processor).map_err(|e| e.to_string())?;
    BpfProgram::try_from(filter).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::thread;

    use seccompiler::apply_filter;

    use super::*;

    #[test]
    fn a_filtered_thread_allocates_and_opens_nothing_and_starts_no_thread() {
        let work = || {
            let installed = install(apply_filter);
            let opened = File::open("/proc/self/status").map_err(|e| e.kind()).map(drop);
            let summed = std::hint::black_box(vec![1u64; 1 << 22]).iter().sum::<u64>();
            let thread = thread::Builder::new().spawn(|| ()).map_err(|e| e.kind()).map(drop);
            (installed, opened, thread, summed)
        };
        let (installed, opened, thread, summed) = thread::scope(|scope| scope.spawn(work).join().expect("no panic"));
        let expected = if installed.is_ok() { Err(ErrorKind::PermissionDenied) } else { Ok(()) };
        assert_eq!((opened, thread, summed), (expected, expected, 1 << 22), "{installed:?}");
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_filtered_thread_ignores_no_signal_of_a_limit_and_masks_none() {
        // SAFETY: plain numbers go in; the first call of a row is denied, or else changes nothing that a test relies
        // on: nobody sends these signals, and the mask is that of a thread that ends.
        let changes = |signal: libc::c_int| unsafe {
            let ignored = libc::signal(signal, libc::SIG_DFL) != libc::SIG_ERR;
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, signal);
            let masked = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) == 0;
            (ignored, masked)
        };
        let signals = [(libc::SIGXCPU, false), (libc::SIGXFSZ, false), (libc::SIGTERM, false), (libc::SIGABRT, true)];
        let work = || (install(apply_filter), signals.map(|(signal, _)| changes(signal)));
        let (installed, found) = thread::scope(|scope| scope.spawn(work).join().expect("no panic"));
        let free = installed.is_err();
        assert_eq!(found, signals.map(|(_, allowed)| (allowed || free, free)), "{installed:?}");
    }

    #[test]
    fn no_call_is_both_needed_and_hostile_or_listed_twice() {
        let mut all = [NEEDED, HOSTILE].concat();
        let grants = conditional_grants().expect("sound rules");
        all.extend(grants.iter().map(|(call, _)| *call));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn filters_stay_within_what_the_kernel_takes() {
        let deny = SeccompAction::Errno(libc::EPERM as u32);
        let hostile = program(
            HOSTILE,
            conditional_kills().expect("sound rules"),
            SeccompAction::Allow,
            SeccompAction::KillProcess,
        );
        let needed = program(NEEDED, conditional_grants().expect("sound rules"), deny, SeccompAction::Allow);
        for (calls, program) in [(HOSTILE, hostile), (NEEDED, needed)] {
            let length = program.expect("a program").len();
            // BPF_MAXINSNS
            assert!((calls.len()..4096).contains(&length), "{length} instructions");
        }
    }
}
