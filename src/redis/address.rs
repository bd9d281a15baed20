//! From an address to a connected socket, all by a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use socket2::SockAddr;

use super::config::place;
use super::socket::{Socket, remaining};
use crate::error::{Error, Kind, Result};
use crate::process::{self, with_signals_blocked};

/// At most so many look-ups are under way: where none ends, more would not either.
const LOOKUPS: u32 = 8;

/// How many are, and in which process: a forked child has none of its parent's threads.
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

fn begin_lookup() -> bool {
    let pid = u64::from(process::id()) << 32;
    let one_more = |value: u64| {
        let count = if value & !u64::from(u32::MAX) == pid { value as u32 } else { 0 };
        (count < LOOKUPS).then(|| pid | u64::from(count + 1))
    };
    UNDER_WAY.fetch_update(Relaxed, Relaxed, one_more).is_ok()
}

fn end_lookup() {
    UNDER_WAY.fetch_sub(1, Relaxed);
}

/// One server's.
pub enum Place<'a> {
    Tcp { host: &'a str, port: u16 },
    Unix(&'a Path),
}

/// Connects to the first of the host's addresses that answers.
pub fn connect(place: &Place<'_>, deadline: Instant) -> io::Result<Socket> {
    let addresses = match *place {
        Place::Unix(path) => vec![SockAddr::unix(path)?],
        Place::Tcp { host, port } => resolve(host, port, deadline)?.into_iter().map(SockAddr::from).collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (i, address) in addresses.iter().enumerate() {
        // An address that swallows packets leaves time for the next.
        let share = remaining(deadline)? / (addresses.len() - i) as u32;
        match Socket::connect(address, share) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The first answer of several hosts that are asked one after the other; or why none gives one: [`Kind::Unavailable`], unless one
/// refused. `what` they are is for messages.
pub fn first_of<T>(
    hosts: &[(String, u16)],
    what: &str,
    deadline: Instant,
    mut ask: impl FnMut(&str, u16, Instant) -> Result<T>,
) -> Result<T> {
    let (mut kind, mut whys) = (Kind::Unavailable, Vec::with_capacity(hosts.len()));
    for (i, (host, port)) in hosts.iter().enumerate() {
        // One that does not answer leaves time for the others, and for what follows.
        let share = deadline.saturating_duration_since(Instant::now()) / (hosts.len() - i + 1) as u32;
        match ask(host, *port, Instant::now() + share) {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                if kind == Kind::Unavailable && error.kind != Kind::Timeout {
                    kind = error.kind;
                }
                whys.push(format!("{what} {}: {error}", place(host, *port)));
            }
        }
    }
    Err(Error::new(kind, whys.join("; ")))
}

/// The addresses of a host. The system's look-up knows no deadline, so a name is looked up on a thread of its own, which is
/// left to itself when time runs out.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let timed_out = |what| io::Error::new(io::ErrorKind::TimedOut, what);
    if !begin_lookup() {
        return Err(timed_out("earlier look-ups of the host's name have not ended"));
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_string();
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        end_lookup();
        // Nobody may be waiting any more.
        let _ = sender.send(found);
    };
    let thread = with_signals_blocked(|| thread::Builder::new().name("pita-lookup".into()).spawn(look_up));
    if let Err(error) = thread {
        end_lookup();
        return Err(error);
    }
    receiver
        .recv_timeout(remaining(deadline)?)
        .unwrap_or_else(|_| Err(timed_out("timed out looking up the host's name")))
}
