//! Sockets with a deadline on every read and write. A forked child closes those that it inherits.

use std::cell::UnsafeCell;
use std::io::{self, Read, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, TcpKeepalive, Type};

use crate::process;
use crate::sync::lock;

/// An idle connection asks for a sign of life after so long.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The sockets of this process. Opening and closing happen under the lock, and so does a fork, so that in a child the
/// list is exactly what it inherited.
static OPEN: Mutex<Sockets> = Mutex::new(Sockets { list: Vec::new(), next: 0 });

struct Sockets {
    list: Vec<Entry>,
    next: u64,
}

/// A descriptor's number is used again; the serial number is not.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    descriptor: RawFd,
    serial: u64,
}

/// Has forked children close the sockets that they inherit, from now on.
pub fn close_in_children() {
    process::at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/// The lock, while a fork is under way.
struct Held(UnsafeCell<Option<MutexGuard<'static, Sockets>>>);

// SAFETY: only touched by whoever holds the lock.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

/// The thread that holds the lock for its fork, or 0. Each handler may be called twice at a fork.
static FORKING: AtomicU64 = AtomicU64::new(0);

fn is_forking_here() -> bool {
    FORKING.load(Relaxed) == this_thread()
}

fn this_thread() -> u64 {
    // SAFETY: asks for what never fails.
    unsafe { libc::pthread_self() }
}

extern "C" fn before_fork() {
    if is_forking_here() {
        return;
    }
    let guard = lock(&OPEN);
    FORKING.store(this_thread(), Relaxed);
    // SAFETY: this thread holds the lock.
    unsafe { *HELD.0.get() = Some(guard) };
}

/// What `before_fork` has locked, once.
fn after_fork() -> Option<MutexGuard<'static, Sockets>> {
    if !is_forking_here() {
        return None;
    }
    FORKING.store(0, Relaxed);
    // SAFETY: this thread, or the one that it is the copy of, has held the lock since `before_fork`.
    unsafe { (*HELD.0.get()).take() }
}

extern "C" fn after_fork_in_parent() {
    drop(after_fork());
}

/// Closes what the child inherited: just that. A QUIT or a shutdown would reach the parent's server, or the parent.
extern "C" fn after_fork_in_child() {
    let Some(mut sockets) = after_fork() else { return };
    for entry in sockets.list.drain(..) {
        // SAFETY: a socket of ours, open in this process; who owned it runs in the parent only.
        unsafe { libc::close(entry.descriptor) };
    }
}

/// A connected socket.
pub struct Socket {
    socket: ManuallyDrop<socket2::Socket>,
    entry: Entry,
}

impl Socket {
    /// Connects within `timeout`.
    pub fn connect(address: &SockAddr, timeout: Duration) -> io::Result<Self> {
        let socket = Self::new(address.domain())?;
        socket.socket.connect_timeout(address, timeout)?;
        if address.domain() != Domain::UNIX {
            socket.socket.set_tcp_nodelay(true)?;
            // The other machine may be gone without a word.
            socket.socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))?;
        }
        Ok(socket)
    }

    fn new(domain: Domain) -> io::Result<Self> {
        let mut sockets = lock(&OPEN);
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        let entry = Entry { descriptor: socket.as_raw_fd(), serial: sockets.next };
        sockets.next += 1;
        sockets.list.push(entry);
        Ok(Socket { socket: ManuallyDrop::new(socket), entry })
    }

    /// The socket, whose reads and writes end in time.
    pub fn within(&self, patience: Patience) -> Timed<'_> {
        Timed { socket: &self.socket, patience, received: 0, failure: None }
    }

    /// Whether an idle socket can be of no use: the other side has hung up, or said something unasked.
    pub fn is_dead(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let answer = self.socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        // Nothing to read is the one good sign; an end of file or a byte is not.
        !matches!(answer, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Which of some sockets has something to read first, or was closed; `None` where `deadline` comes before.
pub fn first_readable(sockets: &[&Socket], deadline: Instant) -> Option<usize> {
    let wanted = |socket: &&Socket| libc::pollfd { fd: socket.entry.descriptor, events: libc::POLLIN, revents: 0 };
    let mut polled: Vec<libc::pollfd> = sockets.iter().map(wanted).collect();
    loop {
        // Rounded up, so that it is not asked over and over in the last millisecond.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32 + 1;
        // SAFETY: as many entries as there are.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, left) };
        if ready > 0 {
            return polled.iter().position(|socket| socket.revents != 0);
        }
        let is_interrupted = ready < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if !is_interrupted || Instant::now() >= deadline {
            return None;
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut sockets = lock(&OPEN);
        // A socket that is not listed was its parent's, and its number may be somebody else's by now.
        if let Some(at) = sockets.list.iter().position(|entry| *entry == self.entry) {
            sockets.list.swap_remove(at);
            // SAFETY: not used again: this is the drop.
            unsafe { ManuallyDrop::drop(&mut self.socket) };
        }
    }
}

/// How long an exchange may take.
#[derive(Clone, Copy)]
pub struct Patience {
    /// When it has to be done.
    pub deadline: Instant,
    /// How long nothing may move.
    pub stall: Duration,
}

impl From<Instant> for Patience {
    fn from(deadline: Instant) -> Self {
        Patience { deadline, stall: Duration::MAX }
    }
}

/// Reads and writes as long as there is time, counts the bytes that came, and remembers why it stopped.
pub struct Timed<'a> {
    socket: &'a socket2::Socket,
    patience: Patience,
    /// Bytes read.
    pub received: usize,
    /// The error that ended the last read or write, also where a layer above has replaced it.
    pub failure: Option<io::Error>,
}

impl Timed<'_> {
    /// Repeats `step` when a signal came between; `step` gets the time that is left.
    fn repeat(&mut self, mut step: impl FnMut(&socket2::Socket, Duration) -> io::Result<usize>) -> io::Result<usize> {
        let failure = loop {
            let left = remaining(self.patience.deadline).map(|left| left.min(self.patience.stall));
            match left.and_then(|left| step(self.socket, left)) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // How the kernel says that a socket's timeout has passed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break io::ErrorKind::TimedOut.into(),
                Err(error) => break error,
            }
        };
        let kind = failure.kind();
        self.failure = Some(failure);
        Err(kind.into())
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.repeat(|mut socket, left| {
            socket.set_read_timeout(Some(left))?;
            match socket.read(buffer)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(count),
            }
        })?;
        self.received += count;
        Ok(count)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(|socket, left| {
            socket.set_write_timeout(Some(left))?;
            socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time left, never zero: for a socket zero means no timeout.
pub fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The kernel counts microseconds, and rounds down to none.
    Ok(left.max(Duration::from_micros(1)))
}
