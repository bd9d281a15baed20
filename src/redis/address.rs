//! From the configured address to a connected socket, all by a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use socket2::SockAddr;

use super::config::Address;
use super::socket::{Socket, remaining};
use crate::process::with_signals_blocked;

/// Connects to the first of the host's addresses that answers.
pub fn connect(address: &Address, deadline: Instant) -> io::Result<Socket> {
    let addresses = match address {
        Address::Unix(path) => vec![SockAddr::unix(path)?],
        Address::Tcp { host, port } => resolve(host, *port, deadline)?.into_iter().map(SockAddr::from).collect(),
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

/// The addresses of a host. The system's look-up knows no deadline, so a name is looked up on a thread of its own, which is
/// left to itself when time runs out.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_string();
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        // Nobody may be waiting any more.
        let _ = sender.send(found);
    };
    with_signals_blocked(|| thread::Builder::new().name("pita-lookup".into()).spawn(look_up))?;
    receiver
        .recv_timeout(remaining(deadline)?)
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out looking up the host's name")))
}
