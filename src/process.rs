//! What concerns the process as a whole: forks, signals, and children that must not outlive it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

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

/// This process's id. It is asked for once: a system call takes longer than a record into the queue.
pub fn id() -> u32 {
    match ID.load(Relaxed) {
        0 => {
            // Twice does no harm, and before the id is kept.
            if !FORGETS_ID.load(Relaxed) {
                // SAFETY: the function stays where it is; the library is never unloaded (-z nodelete).
                unsafe { pthread_atfork(None, None, Some(forget_id)) };
                FORGETS_ID.store(true, Relaxed);
            }
            let id = std::process::id();
            ID.store(id, Relaxed);
            id
        }
        id => id,
    }
}

/// 0 where it was not asked for yet in this process.
static ID: AtomicU32 = AtomicU32::new(0);
static FORGETS_ID: AtomicBool = AtomicBool::new(false);

extern "C" fn forget_id() {
    ID.store(0, Relaxed);
}

/// Calls the functions around every fork of the process from now on: before it, after it in the parent, and in the child.
/// Asked again, it does nothing: there is one use.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Relaxed) {
        // SAFETY: as above.
        unsafe { pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    }
}

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> libc::c_int;
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
