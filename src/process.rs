//! What concerns the process as a whole: forks, signals, and children that must not outlive it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Calls `body` with all signals blocked. A thread that it starts keeps them so: the program's handlers never run there.
pub fn with_signals_blocked<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are initialized before they are read; the calling thread gets its own mask back.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        let is_blocked = libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) == 0;
        let result = body();
        if is_blocked {
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
        result
    }
}

/// Has the kernel end the child when the thread that starts it ends, even if that is killed. The child blocks no signals.
pub fn end_with_this_thread(command: &mut Command) -> &mut Command {
    let parent = id();
    let ask = move || {
        // SAFETY: system calls; the set is initialized before it is read.
        let is_orphan = unsafe {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            libc::getppid() as u32 != parent
        };
        // The parent ended before the kernel was asked.
        if is_orphan { Err(std::io::ErrorKind::NotFound.into()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(ask) }
}

/// This process's id. It is asked for once: a system call takes longer than a record in the queue.
pub fn id() -> u32 {
    static REGISTERED: Registration = Registration::new();
    match ID.load(Ordering::Relaxed) {
        0 => {
            REGISTERED.at_fork(None, None, Some(forget_id));
            let id = std::process::id();
            ID.store(id, Ordering::Relaxed);
            id
        }
        id => id,
    }
}

/// 0 where it was not asked for yet in this process.
static ID: AtomicU32 = AtomicU32::new(0);

extern "C" fn forget_id() {
    ID.store(0, Ordering::Relaxed);
}

/// What is to be done around every fork of the process from now on.
pub struct Registration {
    is_done: AtomicBool,
}

impl Registration {
    /// Nothing, so far.
    pub const fn new() -> Self {
        Registration { is_done: AtomicBool::new(false) }
    }

    /// Has the functions called before a fork, after it in the parent, and in the child. Asked again, it does nothing.
    pub fn at_fork(&self, prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) {
        if !self.is_done.swap(true, Ordering::Relaxed) {
            // SAFETY: the functions stay where they are; the library is never unloaded (-z nodelete).
            unsafe { pthread_atfork(prepare, parent, child) };
        }
    }
}

/// Called around a fork.
pub type Handler = extern "C" fn();

unsafe extern "C" {
    fn pthread_atfork(prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_an_id_of_its_own() {
        let mine = id();
        assert_eq!(mine, std::process::id());
        // SAFETY: the child makes two system calls and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let differs = id() != mine && id() == std::process::id();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!differs)) };
        }
        let mut status = -1;
        // SAFETY: a child of ours, and room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }
}
