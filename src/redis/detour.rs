//! What a server of a cluster says of a command that it has not executed.

use redis::{ServerErrorKind, Value};

use super::config::{Address, Config};
use super::connection::refused;
use crate::error::{Error, Kind};

/// How to go on.
pub enum Detour {
    /// The slot is another server's from now on.
    Moved { slot: u16, host: String, port: u16 },
    /// The key may be at a server that is getting its slot: this once, that is to be asked.
    Ask { host: String, port: u16 },
    /// Again, in a moment.
    Wait(Error),
    /// The same, of a server that is cut off from the others, which may have its slots by now; or they are all down.
    Down(Error),
}

impl Detour {
    /// What `reply` says, if it says that. An address without a host is `from`'s.
    pub fn of(reply: &Value, from: &Config) -> Option<Self> {
        let Value::ServerError(error) = reply else { return None };
        let target = || {
            let (slot, place) = error.details()?.split_once(' ')?;
            let (host, port) = place.rsplit_once(':')?;
            let host = match (host, &from.address) {
                ("", Address::Tcp { host, .. }) => host,
                // It does not know the other's address.
                ("?", _) => return None,
                (host, _) => host,
            };
            Some((slot.parse().ok()?, host.to_string(), port.parse().ok()?))
        };
        match error.kind()? {
            ServerErrorKind::Moved | ServerErrorKind::Ask if target().is_none() => {
                Some(Detour::Wait(Error { kind: Kind::Unavailable, ..refused(error) }))
            }
            ServerErrorKind::Moved => target().map(|(slot, host, port)| Detour::Moved { slot, host, port }),
            ServerErrorKind::Ask => target().map(|(_, host, port)| Detour::Ask { host, port }),
            ServerErrorKind::ClusterDown if error.details().is_some_and(|details| details.contains("is down")) => {
                Some(Detour::Down(refused(error)))
            }
            ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown => Some(Detour::Wait(refused(error))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::parse_redis_value;

    fn detour(answer: &str) -> Option<(u16, String, u16)> {
        let from = Config::from_url("redis://asked:7000").unwrap();
        match Detour::of(&parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap(), &from)? {
            Detour::Moved { slot, host, port } => Some((slot, host, port)),
            Detour::Ask { host, port } => Some((u16::MAX, host, port)),
            Detour::Wait(error) | Detour::Down(error) => Some((0, error.message, 0)),
        }
    }

    #[test]
    fn a_server_says_where_to_go() {
        assert_eq!(detour("MOVED 3999 127.0.0.1:6381"), Some((3999, "127.0.0.1".into(), 6381)));
        assert_eq!(detour("MOVED 1 a.example:1"), Some((1, "a.example".into(), 1)));
        assert_eq!(detour("MOVED 7 ::1:6381"), Some((7, "::1".into(), 6381)));
        assert_eq!(detour("ASK 3999 10.0.0.1:6381"), Some((u16::MAX, "10.0.0.1".into(), 6381)));
        // Its own host, which it does not know.
        assert_eq!(detour("MOVED 3999 :6381"), Some((3999, "asked".into(), 6381)));
    }

    #[test]
    fn all_else_is_no_detour_or_has_to_wait() {
        assert_eq!(detour("WRONGTYPE Operation against a key"), None);
        assert_eq!(detour("ERR unknown"), None);
        for answer in [
            "MOVED 3999",
            "MOVED x y",
            "MOVED 3999 ?:6381",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys",
        ] {
            let (_, message, port) = detour(answer).unwrap();
            assert!(port == 0 && message.contains(answer.split(' ').next().unwrap()), "{answer}: {message}");
        }
    }
}
