//! A private server for a machine where none listens: in memory, on loopback only, gone with the process that started it.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::config::{Address, Config};
use super::connection::Connection;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::process::{end_with_this_thread, with_signals_blocked};

/// What may be in PATH.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// For the server to answer. It does so within a tenth of a second, on a machine that is not busy.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// For another process's server, where ours could not listen.
const OTHERS: Duration = Duration::from_secs(1);

/// Sees to it that a server listens: one that is there, or a new one. Blocks until it answers.
///
/// Of two processes that start one at the same time, one server cannot listen and ends; both go on with the other.
pub fn ensure(config: &Config) -> Result<()> {
    match Connection::open(config, None, Instant::now() + config.connect_timeout).map_err(Error::from) {
        Err(error) if error.kind == Kind::Unavailable => {}
        // It answers, if only to say no.
        answer => return answer.map(drop),
    }
    let ended = start(config)?;
    let mut deadline = Instant::now() + START;
    let mut how = None;
    loop {
        let error = match Connection::open(config, None, deadline).map_err(Error::from) {
            Err(error) if error.kind == Kind::Unavailable => error,
            answer => return answer.map(drop).map_err(|error| error.of(format_args!("autostart"))),
        };
        if Instant::now() >= deadline {
            let error = error.of(format_args!("autostart"));
            let how = how.map_or(String::new(), |how| format!("; the server ended: {how}"));
            return Err(Error::new(error.kind, error.message + &how));
        }
        match ended.recv_timeout(POLL) {
            // Unless somebody else's server was faster, there will be no answer.
            Ok(status) => {
                how = Some(status);
                deadline = deadline.min(Instant::now() + OTHERS);
            }
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Starts a server, and a thread that lives as long as the server does: the kernel ends the server when its parent thread
/// ends, and a caller's thread may end long before the process. Returns where to hear how the server ended.
fn start(config: &Config) -> Result<Receiver<String>> {
    let settings = settings(config);
    let (started, is_started) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let run = move || match spawn(&settings) {
        Ok(mut child) => {
            // Nobody may be listening any more.
            let _ = started.send(Ok(child.id()));
            let _ = ended.send(child.wait().map_or_else(|error| error.to_string(), |status| status.to_string()));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    };
    let unavailable = |why: String| Error::new(Kind::Unavailable, format!("autostart of {config}: {why}"));
    with_signals_blocked(|| thread::Builder::new().name("pita-autostart".into()).spawn(run))
        .map_err(|error| unavailable(error.to_string()))?;
    let process = is_started.recv().unwrap_or_else(|_| Err("the thread ended".into())).map_err(unavailable)?;
    log::emit(Level::Info, || format!("started a private server for {config}, process {process}"));
    Ok(has_ended)
}

fn spawn(settings: &str) -> Result<Child, String> {
    let mut not_found = String::new();
    for program in PROGRAMS {
        // The settings go by standard input: others may read arguments, and the password is among the settings.
        let mut command = Command::new(program);
        command.arg("-").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        match end_with_this_thread(&mut command).spawn() {
            Ok(mut child) => {
                let mut input = child.stdin.take().expect("standard input is a pipe");
                // A server that ends before it has read them does not answer either.
                let _ = input.write_all(settings.as_bytes());
                return Ok(child);
            }
            Err(error) => {
                not_found = format!("{program}: {error}; it is looked for in PATH, as {}", PROGRAMS.join(" or "))
            }
        }
    }
    Err(not_found)
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
    }
    lines.push(format!("databases {}", (config.db + 1).max(16)));
    match (&config.username, &config.password) {
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
}
