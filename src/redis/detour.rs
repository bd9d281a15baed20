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
            ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown => Some(Detour::Wait(refused(error))),
            _ => None,
        }
    }
}
