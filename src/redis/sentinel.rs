//! Asking sentinels where the master is.

use std::time::Instant;

use redis::Value;

use super::address::{self, Place};
use super::ask::first_refusal;
use super::config::Sentinels;
use super::connection::{Connection, Means, login};
use super::pipeline::Pipeline;

/// The host and port of the master, by the first sentinel that knows; or why none does.
pub fn master(sentinels: &Sentinels, means: &Means, deadline: Instant) -> Result<(String, u16), String> {
    address::first_of(&sentinels.hosts, "sentinel", deadline, |host, port, deadline| {
        ask(sentinels, host, port, means, deadline)
    })
}

fn ask(
    sentinels: &Sentinels,
    host: &str,
    port: u16,
    means: &Means,
    deadline: Instant,
) -> Result<(String, u16), String> {
    let mut connection = Connection::connect_to(&Place::Tcp { host, port }, means, deadline)?;
    let mut pipeline = Pipeline::new();
    login(&sentinels.username, &sentinels.password).iter().for_each(|login| pipeline.push(login));
    pipeline.push(redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(&sentinels.service));
    let exchange = connection.exchange(&pipeline.packed, pipeline.len(), deadline.into());
    if let Some(error) = first_refusal(&exchange.replies).or(exchange.failure) {
        return Err(error.message);
    }
    match exchange.replies.last() {
        Some(Value::Nil) => Err(format!("knows no service {:?}", sentinels.service)),
        Some(reply) => redis::from_redis_value_ref(reply).map_err(|_| "answers with no address".into()),
        None => Err("does not answer".into()),
    }
}
