//! What concerns the process as a whole: forks, signals, and children that must not outlive it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

use arc_swap::ArcSwapOption;

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

/// Asks a child to end that was not waited for yet, so that its number is still its own.
pub fn terminate(child: &mut Child) {
    // SAFETY: a system call.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
}

/// This process's id. It is asked for once: a system call takes longer than a record into the queue.
pub fn id() -> u32 {
    let Some(kept) = kept_id() else { return std::process::id() };
    match kept.load(Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Relaxed);
            id
        }
        id => id,
    }
}

/// The id, or 0 where it was not asked for yet in this process: the kernel wipes it in a child, where a handler of
/// `pthread_atfork` would come too late for a fork that is under way when it is set. `None` before Linux 4.14.
fn kept_id() -> Option<&'static AtomicU32> {
    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
    static NOT_KEPT: AtomicU32 = AtomicU32::new(0);
    let mut page = PAGE.load(Acquire);
    if page.is_null() {
        // Two threads may map one each: each is as good as the other.
        page = map_page_wiped_by_fork().map_or((&raw const NOT_KEPT).cast_mut(), <*mut u8>::cast);
        PAGE.store(page, Release);
    }
    // SAFETY: a page of zeros or an id that is never unmapped, or the static.
    (page != (&raw const NOT_KEPT).cast_mut()).then(|| unsafe { &*page })
}

/// A page of zeros, which it is anew in every child.
fn map_page_wiped_by_fork() -> Option<*mut u8> {
    const SIZE: usize = 1; // The kernel makes it a page.
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping of its own, wherever there is room; the advice is for it alone.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), SIZE, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        let is_wiped = page != libc::MAP_FAILED && libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) == 0;
        is_wiped.then_some(page.cast())
    }
}

/// What each process has one of. A forked child makes its own, and leaves its parent's as it is, for ever: another thread may have
/// held its locks at the fork.
pub struct PerProcess<T>(ArcSwapOption<Owned<T>>);

struct Owned<T> {
    pid: u32,
    value: Arc<T>,
    /// The parent's, which is only kept.
    _inherited: Option<Arc<Owned<T>>>,
}

impl<T> PerProcess<T> {
    /// Of which no process has one yet.
    pub const fn new() -> Self {
        PerProcess(ArcSwapOption::const_empty())
    }

    /// This process's, if there is one.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.load().as_ref().filter(|owned| owned.pid == id()).map(|owned| owned.value.clone())
    }

    /// This process's, made now if there is none.
    pub fn get_or_make(&self, make: impl Fn() -> T) -> Arc<T> {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            let found = self.0.load_full();
            if found.as_ref().is_none_or(|owned| owned.pid != id()) {
                let own = Owned { pid: id(), value: Arc::new(make()), _inherited: found.clone() };
                drop(self.0.compare_and_swap(&found, Some(Arc::new(own))));
            }
        }
    }
}

/// Calls the functions around every fork of the process from now on: before it, after it in the parent, and in the child.
/// There is one use; threads that ask at the same time may have them called twice.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.load(Acquire) {
        // SAFETY: the functions stay where they are; the library is never unloaded (-z nodelete).
        unsafe { pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        DONE.store(true, Release);
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
