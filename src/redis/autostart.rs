//! A private server for a machine where none listens: in memory, on loopback only, gone with the process that started it.

use std::fmt;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::config::{Address, Config};
use super::connection::{Connection, Means};
use super::tls;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::process::{self, end_with_this_thread, with_signals_blocked};

/// What may be in PATH.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// For the server to answer. It does so within a tenth of a second, on a machine that is not busy.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// How soon the end of a server is seen: at first, and when it has run for long.
const WATCH: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// For a server to end when it is told to, before it is killed.
const END: Duration = Duration::from_secs(2);
/// For another process's server, where ours could not listen.
const OTHERS: Duration = Duration::from_secs(1);

/// Sees to it that a server listens: one that is there, or a new one. Blocks until it answers.
///
/// Of two processes that start one at the same time for the same port, one server cannot listen and ends; both processes go on
/// with the other. A unix socket can be taken away from a server, so there a file beside it is locked meanwhile.
pub fn ensure(config: &Config) -> Result<()> {
    let means = Means { config: config.clone(), tls: tls::Settings::of(config)? };
    let deadline = Instant::now() + START;
    if is_there(&means, config.connect_timeout)? {
        return Ok(());
    }
    config.check_autostart()?;
    let _lock = match &config.address {
        Address::Tcp { .. } | Address::Sentinel(_) | Address::Cluster(_) => None,
        Address::Unix(path) => Some(lock_beside(path, deadline)?),
    };
    if is_there(&means, config.connect_timeout)? {
        return Ok(());
    }
    let events = start(config)?;
    wait_until_there(&means, &events, deadline)
}

/// Whether a server answers, if only to say no, which is an error.
fn is_there(means: &Means, patience: Duration) -> Result<bool> {
    match Connection::open(means, Instant::now() + patience).map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(error) if error.kind == Kind::Unavailable => Ok(false),
        Err(error) => Err(error.of(format_args!("autostart"))),
    }
}

/// What becomes of a new server.
enum Event {
    Started(u32),
    NotStarted(String),
    Ended(String),
}

/// Waits for an answer. Where the new server has ended, somebody else's may have been faster.
fn wait_until_there(means: &Means, events: &Receiver<Event>, mut deadline: Instant) -> Result<()> {
    let config = &means.config;
    let mut how = String::from("the server does not answer");
    // A process that is forked off at the wrong moment may keep us from hearing of the start, not from the answer.
    while !is_there(means, config.connect_timeout)? {
        if Instant::now() >= deadline {
            return Err(failed(config, &how));
        }
        match events.recv_timeout(POLL) {
            Ok(Event::Started(process)) => {
                log::emit(Level::Info, || format!("started a private server for {config}, process {process}"));
            }
            Ok(Event::NotStarted(why)) => return Err(failed(config, &why)),
            Ok(Event::Ended(status)) => {
                how = format!("the server ended: {status}");
                deadline = deadline.min(Instant::now() + OTHERS);
            }
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    Ok(())
}

fn failed(config: &Config, why: &str) -> Error {
    Error::new(Kind::Unavailable, format!("autostart of {config}: {why}"))
}

/// Locks the file `path`.lock until it is dropped.
fn lock_beside(path: &Path, deadline: Instant) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let unavailable = |error: &dyn fmt::Display| Error::new(Kind::Unavailable, format!("autostart: {name:?}: {error}"));
    let file =
        File::options().create(true).append(true).mode(0o600).open(&name).map_err(|error| unavailable(&error))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
            Err(error) => return Err(unavailable(&error)),
        }
    }
}

/// Starts a server, and a thread that lives as long as the server does: the kernel ends the server when its parent thread
/// ends, and a caller's thread may end long before the process.
fn start(config: &Config) -> Result<Receiver<Event>> {
    let settings = settings(config);
    let (sender, events) = mpsc::channel();
    // Nobody may be listening any more.
    let tell = move |event| drop(sender.send(event));
    let (stop, stops) = mpsc::channel();
    // It is in the list before it runs, so that a stop finds it at any time.
    let server = Arc::new(Server { parent: process::id(), stop });
    change_servers(|servers| servers.push(server.clone()));
    let me = server.clone();
    let run = move || {
        match spawn(&settings) {
            Ok(child) => {
                tell(Event::Started(child.id()));
                tell(Event::Ended(
                    watch(child, &stops).map_or_else(|error| error.to_string(), |status| status.to_string()),
                ));
            }
            Err(error) => tell(Event::NotStarted(error)),
        }
        change_servers(|servers| servers.retain(|server| !Arc::ptr_eq(server, &me)));
    };
    let thread = with_signals_blocked(|| thread::Builder::new().name("pita-autostart".into()).spawn(run));
    match thread {
        Ok(_) => Ok(events),
        Err(error) => {
            change_servers(|servers| servers.retain(|other| !Arc::ptr_eq(other, &server)));
            Err(failed(config, &error.to_string()))
        }
    }
}

/// The servers that this process has started, and a forked child's parent.
static SERVERS: ArcSwapOption<Vec<Arc<Server>>> = ArcSwapOption::const_empty();

struct Server {
    parent: u32,
    /// Has its thread end it, and tell when it is done by dropping what was sent.
    stop: mpsc::Sender<mpsc::Sender<()>>,
}

/// Without a lock, which a fork could leave held. A forked child leaves its parent's servers in the list, untouched: another
/// thread may have been in them at the fork.
fn change_servers(change: impl Fn(&mut Vec<Arc<Server>>)) {
    SERVERS.rcu(|servers| {
        let mut servers = servers.as_deref().cloned().unwrap_or_default();
        change(&mut servers);
        Some(Arc::new(servers))
    });
}

/// Waits for the end of a server, or until somebody wants it ended.
fn watch(mut child: Child, stops: &Receiver<mpsc::Sender<()>>) -> io::Result<ExitStatus> {
    let mut patience = WATCH.0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match stops.recv_timeout(patience) {
            Ok(_done) => return end(&mut child),
            Err(_) => patience = (2 * patience).min(WATCH.1),
        }
    }
}

/// Ends a server: asks first.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    process::terminate(child);
    let deadline = Instant::now() + END;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()
}

/// Ends the servers that this process has started, and waits until they have ended.
pub fn stop() {
    let Some(servers) = SERVERS.load_full() else { return };
    let (sender, done) = mpsc::channel();
    for server in servers.iter().filter(|server| server.parent == process::id()) {
        // Fails where the server has ended by itself.
        drop(server.stop.send(sender.clone()));
    }
    drop(sender);
    // Nothing comes; this ends when all senders are gone.
    let _ = done.recv();
}

fn spawn(settings: &str) -> Result<Child, String> {
    let mut not_found = String::new();
    for program in PROGRAMS {
        // The settings go by standard input: others may read arguments, and the password is among the settings.
        let input = unnamed_file(settings).map_err(|error| format!("a temporary file: {error}"))?;
        let mut command = Command::new(program);
        command.arg("-").current_dir("/").stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
        match end_with_this_thread(&mut command).spawn() {
            Ok(child) => return Ok(child),
            Err(error) => {
                not_found = format!("{program}: {error}; it is looked for in PATH, as {}", PROGRAMS.join(" or "))
            }
        }
    }
    Err(not_found)
}

/// A file that nobody else can open, with this text to be read.
fn unnamed_file(text: &str) -> io::Result<File> {
    let token = RandomState::new().hash_one(process::id());
    let path = std::env::temp_dir().join(format!("pita-redis-{token:016x}"));
    let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// The server's settings, as its configuration file has them.
fn settings(config: &Config) -> String {
    let mut lines = vec!["save \"\"".to_string(), "appendonly no".into(), "daemonize no".into()];
    match &config.address {
        Address::Tcp { host, port } => {
            let bind = if host.contains(':') { "::1" } else { "127.0.0.1" };
            lines.extend([format!("bind {bind}"), format!("port {port}")]);
        }
        Address::Unix(path) => {
            let path = path.to_string_lossy();
            lines.extend(["port 0".into(), format!("unixsocket {}", quoted(&path)), "unixsocketperm 700".into()]);
        }
        // Refused before.
        Address::Sentinel(_) | Address::Cluster(_) => {}
    }
    lines.push(format!("databases {}", (config.db + 1).max(16)));
    let user = config.username.as_deref().filter(|user| *user != "default");
    match (user, &config.password) {
        (Some(user), Some(password)) => {
            lines.push("user default off".into());
            lines.push(format!("user {} on {} ~* +@all", quoted(user), quoted(&format!(">{password}"))));
        }
        (None, Some(password)) => lines.push(format!("requirepass {}", quoted(password))),
        _ => {}
    }
    lines.join("\n") + "\n"
}

/// A word of the configuration file, whatever is in it.
fn quoted(text: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_cannot_be_broken_out_of() {
        let config = Config::from_url("redis://:a%22%0Aport%201@localhost:7000/20?autostart=1").unwrap();
        let settings = settings(&config);
        assert!(settings.contains("requirepass \"\\x61\\x22\\x0a"), "{settings}");
        assert_eq!(settings.lines().filter(|line| line.starts_with("port")).collect::<Vec<_>>(), ["port 7000"]);
        assert!(settings.contains("databases 21"));
    }

    #[test]
    fn a_server_that_has_ended_leaves_the_list() {
        let has_mine = || SERVERS.load().as_deref().is_some_and(|servers| !servers.is_empty());
        // Fails at once: no server has a user with a space.
        let events = start(&Config::from_url("redis://us%20er:pw@127.0.0.1:1").unwrap()).unwrap();
        while let Ok(event) = events.recv() {
            assert!(matches!(event, Event::Started(_) | Event::Ended(_)));
        }
        let deadline = Instant::now() + START;
        while has_mine() {
            assert!(Instant::now() < deadline, "it stays in the list");
            thread::sleep(POLL);
        }
    }
}
