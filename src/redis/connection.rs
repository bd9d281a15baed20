//! One connection: a socket with a deadline on every read and write, and redis-rs's parser on top.
//!
//! redis-rs's own connection bounds each reply, not the call, and does not tell how much of a pipeline was sent.
//! Delivery needs both: what was never sent whole was surely not executed, and may be reported or sent again as such.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use redis::{Cmd, Parser, ServerError, ServerErrorKind, Value};

use super::address::{self, Place};
use super::config::{Address, Config};
use super::pipeline::Pipeline;
use super::sentinel::{self, Named};
use super::socket::{Patience, Socket, Timed};
use super::tls::{self, Tls};
use crate::error::{Error, Kind, Result};

/// A socket to Redis, logged in and on its database.
pub struct Connection {
    socket: Socket,
    /// `None` where nothing is encrypted.
    tls: Option<Tls>,
    parser: Parser,
    /// Where the sentinels said that it is; `None` where there are none.
    master: Option<Named>,
    /// `None` where the server would not tell.
    clock: Option<Clock>,
    /// In the middle of an exchange, or after a failed one: replies may still be on their way, so it is not used again.
    broken: bool,
}

/// What it takes to make connections.
#[derive(Clone)]
pub struct Means {
    pub config: Config,
    /// `None` where nothing is encrypted.
    pub tls: Option<tls::Settings>,
}

/// The server's time a moment after `at`, in milliseconds.
#[derive(Clone, Copy)]
struct Clock {
    at: Instant,
    server_ms: u64,
}

/// For so long a connection trusts what it knows of the server's clock.
const CLOCK_LIFE: Duration = Duration::from_secs(5);
/// How often a server is greeted that hangs up without a word.
const GREETINGS: usize = 3;

/// Why there is no connection.
pub enum Refusal {
    /// It was lost before the server said a word.
    HungUp(Error),
    /// The server has as many clients as it takes. It still serves those.
    Full(Error),
    /// All connections became worthless while one was waited for. Of the server that says nothing.
    Forgotten,
    /// All else.
    Other(Error),
}

impl Refusal {
    fn of(self, what: fmt::Arguments<'_>) -> Self {
        match self {
            Refusal::HungUp(error) => Refusal::HungUp(error.of(what)),
            Refusal::Full(error) => Refusal::Full(error.of(what)),
            Refusal::Forgotten => Refusal::Forgotten,
            Refusal::Other(error) => Refusal::Other(error.of(what)),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::HungUp(error) | Refusal::Full(error) | Refusal::Other(error) => error,
            Refusal::Forgotten => Error::new(Kind::Unavailable, "the connections that there were are lost"),
        }
    }
}

impl Clock {
    /// By the answer to a TIME that was sent after `at`: seconds, and microseconds.
    fn of(at: Instant, time: &Value) -> Option<Self> {
        let (seconds, micros): (u64, u64) = redis::from_redis_value_ref(time).ok()?;
        Some(Clock { at, server_ms: seconds * 1000 + micros / 1000 })
    }
}

/// What was sent of a pipeline.
pub struct Sent {
    /// See [`Exchange::sent`].
    bytes: usize,
    /// Why that is not all.
    failure: Option<Error>,
}

/// What became of a pipeline.
pub struct Exchange {
    /// The replies that came, in the order of the commands.
    pub replies: Vec<Value>,
    /// How many bytes may have reached the server. A command that ends beyond was surely not executed.
    pub sent: usize,
    /// Bytes of the replies, encrypted if so.
    pub received: usize,
    /// Why there are fewer replies than commands; the connection is broken then.
    pub failure: Option<Error>,
}

impl Connection {
    /// Connects, logs in and selects the database, by `deadline` and within the configured connect timeout.
    pub fn open(means: &Means, deadline: Instant) -> Result<Self, Refusal> {
        let config = &means.config;
        let deadline = deadline.min(Instant::now() + config.connect_timeout);
        let mut greetings = 0;
        loop {
            let mut connection = Self::connect(means, deadline).map_err(Refusal::Other)?;
            greetings += 1;
            match connection.hello(config, deadline) {
                Ok(()) => return Ok(connection),
                // A connection that is lost so early was likely lost by chance.
                Err(Refusal::HungUp(_)) if greetings < GREETINGS => {}
                Err(refusal) => {
                    let refusal = match &connection.master {
                        Some(master) => refusal.of(format_args!("{master}")),
                        None => refusal,
                    };
                    return Err(refusal.of(format_args!("no connection to {config}")));
                }
            }
        }
    }

    fn connect(means: &Means, deadline: Instant) -> Result<Self> {
        let connected = match &means.config.address {
            Address::Tcp { host, port } => Self::connect_to(&Place::Tcp { host, port: *port }, means, deadline),
            Address::Unix(path) => Self::connect_to(&Place::Unix(path), means, deadline),
            Address::Cluster(servers) => address::first_of(servers, "server", deadline, |host, port, deadline| {
                Self::connect_to(&Place::Tcp { host, port }, means, deadline)
            }),
            Address::Sentinel(sentinels) => sentinel::master(sentinels, means, deadline).and_then(|master| {
                let connected =
                    Self::connect_to(&Place::Tcp { host: &master.host, port: master.port }, means, deadline);
                let connection = connected.map_err(|error| error.of(format_args!("{master}")))?;
                Ok(Connection { master: Some(master), ..connection })
            }),
        };
        connected.map_err(|error| error.of(format_args!("no connection to {}", means.config)))
    }

    /// A connection to one server, or why there is none: [`Kind::Unavailable`]. Nothing has been said yet.
    pub(super) fn connect_to(place: &Place<'_>, means: &Means, deadline: Instant) -> Result<Self> {
        let unavailable = |why: String| Error::new(Kind::Unavailable, why);
        let socket = address::connect(place, deadline).map_err(|error| unavailable(error.to_string()))?;
        let mut timed = socket.within(deadline.into());
        let tls = match (&means.tls, place) {
            (Some(settings), Place::Tcp { host, .. }) => Some(Tls::agree(settings, host, &mut timed)),
            _ => None,
        };
        let tls = tls
            .transpose()
            .map_err(|error| unavailable(format!("TLS handshake: {}", reason(&error, timed.failure))))?;
        Ok(Connection { socket, tls, parser: Parser::new(), master: None, clock: None, broken: false })
    }

    /// Logs in, and learns from a PING whether the server serves us at all, before any command is at stake; and the time.
    fn hello(&mut self, config: &Config, deadline: Instant) -> Result<(), Refusal> {
        let mut pipeline = Pipeline::new();
        login(&config.username, &config.password).iter().for_each(|login| pipeline.push(login));
        if config.db != 0 {
            pipeline.push(redis::cmd("SELECT").arg(config.db));
        }
        let required = pipeline.len();
        pipeline.push(&redis::cmd("PING"));
        if config.has_failovers() {
            pipeline.push(&redis::cmd("ROLE"));
        }
        pipeline.push(&redis::cmd("TIME"));
        let at = Instant::now();
        let exchange = self.exchange(&pipeline.packed, pipeline.len(), deadline.into());
        for (i, reply) in exchange.replies.iter().enumerate() {
            if let Value::ServerError(error) = reply {
                // A user may lack the right to PING, or to ask for the time, and yet have all that is needed.
                if i < required || error.kind() != Some(ServerErrorKind::NoPerm) {
                    return Err(if is_full(error) { Refusal::Full } else { Refusal::Other }(refused(error)));
                }
            }
        }
        if let Some(error) = exchange.failure {
            let is_lost = error.kind == Kind::Unavailable;
            let error = Error::new(Kind::Unavailable, format!("connected, but {error}"));
            return Err(if is_lost { Refusal::HungUp } else { Refusal::Other }(error));
        }
        if config.has_failovers()
            && let Some(Value::Array(role)) = exchange.replies.get(required + 1)
            && let Some(Value::BulkString(role)) = role.first()
            && role != b"master"
        {
            let role = String::from_utf8_lossy(role);
            let message = format!("the sentinels' master is a {role}: a failover may be under way");
            return Err(Refusal::Other(Error::new(Kind::Unavailable, message)));
        }
        self.clock = exchange.replies.last().and_then(|time| Clock::of(at, time));
        Ok(())
    }

    /// The server's time when `deadline` comes, or a moment later, in milliseconds; 0 where it is not known.
    pub fn server_time(&self, deadline: Instant) -> u64 {
        // Two, because both are rounded down.
        let later = |at: Instant| deadline.saturating_duration_since(at).as_millis() as u64 + 2;
        self.clock.map_or(0, |clock| clock.server_ms + later(clock.at))
    }

    /// Asks for the server's time again if that was long ago. Either clock may have been set, or the machine have slept.
    pub fn renew_clock(&mut self, deadline: Instant) -> Result<()> {
        if self.clock.is_none_or(|clock| clock.at.elapsed() < CLOCK_LIFE) {
            return Ok(());
        }
        let at = Instant::now();
        let exchange = self.exchange(&redis::cmd("TIME").get_packed_command(), 1, deadline.into());
        if let Some(error) = exchange.failure {
            return Err(error);
        }
        self.clock = exchange.replies.last().and_then(|time| Clock::of(at, time));
        Ok(())
    }

    /// Sends `packed`, which holds `commands` commands, and reads as many replies, all within `patience`.
    pub fn exchange(&mut self, packed: &[u8], commands: usize, patience: Patience) -> Exchange {
        let sent = self.send(packed, patience);
        self.receive(commands, sent, patience)
    }

    /// The first half of an exchange.
    pub fn send(&mut self, packed: &[u8], patience: Patience) -> Sent {
        self.broken = true;
        let mut sent = Sent { bytes: 0, failure: None };
        let mut wire = Wire { timed: self.socket.within(patience), tls: self.tls.as_mut() };
        if let Err(error) = wire.send(packed, &mut sent.bytes) {
            sent.failure = Some(lost("sending", &reason(&error, wire.timed.failure.take())));
        }
        sent
    }

    /// The second half: reads the replies to the `commands` that were `sent`.
    pub fn receive(&mut self, commands: usize, sent: Sent, patience: Patience) -> Exchange {
        let Sent { bytes: sent, failure } = sent;
        let mut result = Exchange { replies: Vec::with_capacity(commands), sent, received: 0, failure };
        let mut wire = Wire { timed: self.socket.within(patience), tls: self.tls.as_mut() };
        // Also after a failed write: the server may have answered what came before, or said why it hung up.
        if sent > 0 {
            while result.replies.len() < commands {
                match self.parser.parse_value(&mut wire) {
                    Ok(reply) => result.replies.push(reply),
                    Err(_) => {
                        let failure = match wire.timed.failure.take() {
                            Some(error) => lost("waiting for the answer", &error),
                            None => Error::new(Kind::Unavailable, "the answer is not Redis's protocol"),
                        };
                        result.failure.get_or_insert(failure);
                        break;
                    }
                }
            }
            result.received = wire.timed.received;
        }
        self.broken = result.failure.is_some();
        result
    }

    /// The socket, to wait for an answer on it.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The server, where sentinels named it.
    pub fn master(&self) -> Option<&Named> {
        self.master.as_ref()
    }

    /// It is not used again.
    pub fn abandon(&mut self) {
        self.broken = true;
    }

    /// Whether it is not to be used again: an exchange has failed, and an answer may still be on its way.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether an idle connection is of no use any more.
    pub fn is_dead(&self) -> bool {
        self.socket.is_dead()
    }
}

/// What logs in, where that is needed.
pub fn login(username: &Option<String>, password: &Option<String>) -> Option<Cmd> {
    match (username, password) {
        (None, None) => None,
        (None, Some(password)) => Some(redis::cmd("AUTH").arg(password).take()),
        (Some(user), password) => Some(redis::cmd("AUTH").arg(user).arg(password.as_deref().unwrap_or("")).take()),
    }
}

/// A connection's two directions during an exchange.
struct Wire<'a> {
    timed: Timed<'a>,
    tls: Option<&'a mut Tls>,
}

impl Wire<'_> {
    fn send(&mut self, packed: &[u8], sent: &mut usize) -> io::Result<()> {
        while *sent < packed.len() {
            *sent += match &mut self.tls {
                Some(tls) => tls.send(&packed[*sent..], &mut self.timed)?,
                None => self.timed.write(&packed[*sent..])?,
            };
        }
        Ok(())
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.tls {
            Some(tls) => tls.receive(buffer, &mut self.timed),
            None => self.timed.read(buffer),
        };
        // The parser passes no error on.
        if let Err(error) = &result {
            self.timed.failure.get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
        }
        result
    }
}

/// Why a layer above a socket failed: the socket's own failure if there was one.
fn reason(error: &io::Error, of_socket: Option<io::Error>) -> io::Error {
    of_socket.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

/// A connection that failed in use.
fn lost(doing: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::new(Kind::Timeout, format!("timed out {doing}")),
        io::ErrorKind::UnexpectedEof => Error::new(Kind::Unavailable, format!("the server hung up, {doing}")),
        _ => Error::new(Kind::Unavailable, format!("connection lost {doing}: {error}")),
    }
}

/// Whether a refusal is no fault of the command's, and passes: the server is not ready for it now.
pub fn is_passing(error: &ServerError) -> bool {
    const CODES: [&str; 10] = [
        "LOADING",
        "BUSY",
        "OOM",
        "READONLY",
        "MISCONF",
        "NOREPLICAS",
        "MASTERDOWN",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "NOAUTH",
    ];
    CODES.contains(&error.code()) || is_full(error)
}

/// Whether a server refuses because it is no master, a command or all writes of a script.
pub fn is_readonly(reply: &Value) -> bool {
    match reply {
        Value::ServerError(error) => error.code() == "READONLY",
        Value::Array(answers) => !answers.is_empty() && answers.iter().all(is_readonly),
        _ => false,
    }
}

fn is_full(error: &ServerError) -> bool {
    error.code() == "ERR" && error.details().is_some_and(|details| details.starts_with("max number of clients"))
}

/// A server's error answer in its own words, less the arguments, for those of AUTH are secret, and the script's name.
pub fn refused(error: &ServerError) -> Error {
    let code = error.code();
    let details = error.details().unwrap_or("");
    let args = details.find(", with args").unwrap_or(details.len());
    // Its name comes last; Valkey has the word before, too.
    let script = details.rfind(" script: ").filter(|at| !details[..*at].ends_with(" in")).unwrap_or(details.len());
    let details = &details[..args.min(script)];
    let kind = match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Kind::Auth,
        "LOADING" | "CLUSTERDOWN" | "TRYAGAIN" => Kind::Unavailable,
        _ if is_full(error) => Kind::Unavailable,
        // What scripts say before Redis 7.2, and in Valkey.
        "ERR" if details.starts_with("The user executing the script can't") => Kind::Auth,
        "ERR" if details.starts_with("ACL failure in script") => Kind::Auth,
        // What AUTH says where the server has no password, or (before Redis 6) another one.
        "ERR" if details.contains("AUTH") || details == "invalid password" => Kind::Auth,
        _ => Kind::Redis,
    };
    let hint = match code {
        "MOVED" | "ASK" => "; the server is one of a cluster: its URL is redis+cluster://",
        "ERR" if details.contains("cluster support disabled") => "; it is a server of its own: its URL is redis://",
        // The first command that a sentinel does not know.
        "ERR" if details.to_ascii_lowercase().starts_with("unknown command 'time'") => {
            "; is it a sentinel? Its URL is redis+sentinel://host:port/service"
        }
        _ => "",
    };
    Error::new(kind, format!("Redis refused: {code} {details}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(answer: &str) -> (Kind, String) {
        match redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => (refused(&error).kind, refused(&error).message),
            other => panic!("{answer} is no refusal: {other:?}"),
        }
    }

    #[test]
    fn what_a_script_may_not_do_is_a_matter_of_rights_on_each_server() {
        let name = "script: 33922ef3e331238856a1f7f9a404ff46247e1b97, on @user_script:1.";
        for words in [
            "ERR The user executing the script can't run this command or subcommand",
            "ERR ACL failure in script: User u has no permissions to run the 'rpush' command",
            "NOPERM this user has no permissions to run the 'evalsha' command",
        ] {
            assert_eq!(refusal(&format!("{words} {name}")), (Kind::Auth, format!("Redis refused: {words}")));
            assert_eq!(refusal(words), (Kind::Auth, format!("Redis refused: {words}")));
        }
    }

    #[test]
    fn no_argument_is_repeated() {
        let (_, message) = refusal("ERR unknown command 'AUTH', with args beginning with: 'hunter2'");
        assert!(message.contains("unknown command 'AUTH'") && !message.contains("hunter2"), "{message}");
    }
}
