//! One connection: a socket with a deadline on every read and write, and redis-rs's parser on top.
//!
//! redis-rs's own connection bounds each reply, not the call, and does not tell how much of a pipeline was sent.
//! Delivery needs both: what was never sent whole was surely not executed, and may be reported or sent again as such.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use redis::{Parser, ServerError, ServerErrorKind, Value};
use socket2::{Domain, SockAddr, Socket, Type};

use super::config::{Address, Config};
use crate::error::{Error, Kind, Result};

/// A socket to Redis, logged in and on its database.
pub struct Connection {
    socket: Socket,
    parser: Parser,
    /// In the middle of an exchange, or after a failed one: replies may still be on their way, so it is not used again.
    broken: bool,
}

/// What became of a pipeline.
pub struct Exchange {
    /// The replies that came, in the order of the commands.
    pub replies: Vec<Value>,
    /// How many bytes the kernel accepted. A command that ends beyond was surely not executed.
    pub sent: usize,
    /// Bytes of the replies.
    pub received: usize,
    /// Why there are fewer replies than commands; the connection is broken then.
    pub failure: Option<Error>,
}

impl Connection {
    /// Connects, logs in and selects the database, by `deadline` and within the configured connect timeout.
    pub fn open(config: &Config, deadline: Instant) -> Result<Self> {
        let deadline = deadline.min(Instant::now() + config.connect_timeout);
        let socket = connect(&config.address, deadline)
            .map_err(|error| Error::new(Kind::Unavailable, format!("no connection to {config}: {error}")))?;
        let mut connection = Connection { socket, parser: Parser::new(), broken: false };
        connection.hello(config, deadline).map_err(|error| error.of(format_args!("no connection to {config}")))?;
        Ok(connection)
    }

    /// Logs in, and learns from a PING whether the server serves us at all, before any command is at stake.
    fn hello(&mut self, config: &Config, deadline: Instant) -> Result<()> {
        let mut packed = Vec::new();
        let mut commands = 0;
        let mut add = |command: &redis::Cmd| {
            command.write_packed_command(&mut packed);
            commands += 1;
        };
        match (&config.username, &config.password) {
            (None, None) => {}
            (None, Some(password)) => add(redis::cmd("AUTH").arg(password)),
            (Some(user), password) => add(redis::cmd("AUTH").arg(user).arg(password.as_deref().unwrap_or(""))),
        }
        if config.db != 0 {
            add(redis::cmd("SELECT").arg(config.db));
        }
        add(&redis::cmd("PING"));
        let exchange = self.exchange(&packed, commands, deadline);
        for (i, reply) in exchange.replies.iter().enumerate() {
            if let Value::ServerError(error) = reply {
                // A user may lack the right to PING and yet have all that is needed.
                let is_ping = i + 1 == commands;
                if !(is_ping && error.kind() == Some(ServerErrorKind::NoPerm)) {
                    return Err(refused(error));
                }
            }
        }
        match exchange.failure {
            Some(error) => Err(Error::new(Kind::Unavailable, format!("connected, but {error}"))),
            None => Ok(()),
        }
    }

    /// Sends `packed`, which holds `commands` commands, and reads as many replies, all by `deadline`.
    pub fn exchange(&mut self, packed: &[u8], commands: usize, deadline: Instant) -> Exchange {
        self.broken = true;
        let mut result = Exchange { replies: Vec::with_capacity(commands), sent: 0, received: 0, failure: None };
        if let Err(error) = self.send(packed, &mut result.sent, deadline) {
            result.failure = Some(lost("sending", &error));
        }
        // Also after a failed write: the server may have answered what came before, or said why it hung up.
        if result.sent > 0 {
            let mut reader = Reader { socket: &self.socket, deadline, received: 0, failure: None };
            while result.replies.len() < commands {
                match self.parser.parse_value(&mut reader) {
                    Ok(reply) => result.replies.push(reply),
                    Err(_) => {
                        let failure = match reader.failure.take() {
                            Some(error) => lost("waiting for the answer", &error),
                            None => Error::new(Kind::Unavailable, "the answer is not Redis's protocol"),
                        };
                        result.failure.get_or_insert(failure);
                        break;
                    }
                }
            }
            result.received = reader.received;
        }
        self.broken = result.failure.is_some();
        result
    }

    fn send(&self, packed: &[u8], sent: &mut usize, deadline: Instant) -> io::Result<()> {
        while *sent < packed.len() {
            self.socket.set_write_timeout(Some(remaining(deadline)?))?;
            match self.socket.send_with_flags(&packed[*sent..], libc::MSG_NOSIGNAL) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether an exchange has failed: an answer may still be on its way.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the server has hung up on an idle connection, or said something unasked.
    pub fn is_dead(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let answer = self.socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        // Nothing to read is the one good sign; an end of file or a byte is not.
        !matches!(answer, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn connect(address: &Address, deadline: Instant) -> io::Result<Socket> {
    let addresses: Vec<SockAddr> = match address {
        Address::Unix(path) => vec![SockAddr::unix(path)?],
        Address::Tcp { host, port } => (host.as_str(), *port).to_socket_addrs()?.map(SockAddr::from).collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (i, address) in addresses.iter().enumerate() {
        // An address that swallows packets leaves time for the next.
        let share = remaining(deadline)? / (addresses.len() - i) as u32;
        match connect_to(address, share) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.connect_timeout(address, timeout)?;
    if address.domain() != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

/// The time left, never zero: for a socket zero means no timeout.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The kernel counts microseconds, and rounds down to none.
    Ok(left.max(Duration::from_micros(1)))
}

/// Reads from a socket until a deadline, counts the bytes, and remembers why it stopped.
struct Reader<'a> {
    socket: &'a Socket,
    deadline: Instant,
    received: usize,
    failure: Option<io::Error>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let failure = loop {
            let result = remaining(self.deadline).and_then(|left| {
                self.socket.set_read_timeout(Some(left))?;
                let mut socket = self.socket;
                socket.read(buffer)
            });
            match result {
                Ok(0) => break io::ErrorKind::UnexpectedEof.into(),
                Ok(count) => {
                    self.received += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        let kind = failure.kind();
        self.failure = Some(failure);
        Err(kind.into())
    }
}

/// A connection that failed in use.
fn lost(doing: &str, error: &io::Error) -> Error {
    match error.kind() {
        // A socket's timeout comes as "would block".
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::new(Kind::Timeout, format!("timed out {doing}")),
        io::ErrorKind::UnexpectedEof => Error::new(Kind::Unavailable, format!("the server hung up, {doing}")),
        _ => Error::new(Kind::Unavailable, format!("connection lost {doing}: {error}")),
    }
}

/// A server's error answer in its own words, less the arguments, for those of AUTH are secret, and the script's name.
pub fn refused(error: &ServerError) -> Error {
    let code = error.code();
    let cut = |text: &'_ str, at: &str| text.find(at).unwrap_or(text.len());
    let details = error.details().unwrap_or("");
    let details = &details[..cut(details, ", with args").min(cut(details, " script: "))];
    let kind = match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Kind::Auth,
        "LOADING" => Kind::Unavailable,
        "ERR" if details.starts_with("max number of clients") => Kind::Unavailable,
        // What scripts say before Redis 7.2.
        "ERR" if details.starts_with("The user executing the script can't") => Kind::Auth,
        // What AUTH says where the server has no password, or (before Redis 6) another one.
        "ERR" if details.contains("AUTH") || details == "invalid password" => Kind::Auth,
        _ => Kind::Redis,
    };
    Error::new(kind, format!("Redis refused: {code} {details}"))
}
