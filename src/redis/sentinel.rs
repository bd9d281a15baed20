//! Asking sentinels where the master is.

use std::time::Instant;

use redis::Value;

use super::address::Place;
use super::config::{Sentinels, place};
use super::connection::{Connection, Means, login, refused};
use super::socket::remaining;

/// The host and port of the master, by the first sentinel that knows; or why none does.
pub fn master(sentinels: &Sentinels, means: &Means, deadline: Instant) -> Result<(String, u16), String> {
    let count = sentinels.hosts.len();
    let mut whys = Vec::with_capacity(count);
    for (i, (host, port)) in sentinels.hosts.iter().enumerate() {
        // One that does not answer leaves time for the others, and for the master.
        let share = remaining(deadline).map_err(|error| error.to_string())? / (count - i + 1) as u32;
        match ask(sentinels, host, *port, means, Instant::now() + share) {
            Ok(master) => return Ok(master),
            Err(why) => whys.push(format!("sentinel {}: {why}", place(host, *port))),
        }
    }
    Err(whys.join("; "))
}

fn ask(
    sentinels: &Sentinels,
    host: &str,
    port: u16,
    means: &Means,
    deadline: Instant,
) -> Result<(String, u16), String> {
    let mut connection = Connection::connect_to(&Place::Tcp { host, port }, means, deadline)?;
    let mut commands: Vec<_> = login(&sentinels.username, &sentinels.password).into_iter().collect();
    commands.push(redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(&sentinels.service).take());
    let mut packed = Vec::new();
    commands.iter().for_each(|command| command.write_packed_command(&mut packed));
    let exchange = connection.exchange(&packed, commands.len(), deadline.into());
    for reply in &exchange.replies {
        if let Value::ServerError(error) = reply {
            return Err(refused(error).message);
        }
    }
    if let Some(error) = exchange.failure {
        return Err(error.message);
    }
    match exchange.replies.last() {
        Some(Value::Nil) => Err(format!("knows no service {:?}", sentinels.service)),
        Some(reply) => redis::from_redis_value_ref(reply).map_err(|_| "answers with no address".into()),
        None => Err("does not answer".into()),
    }
}
