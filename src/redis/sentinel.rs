//! Sentinels say where the master is.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::Value;

use super::address::{self, Place};
use super::ask::first_refusal;
use super::config::{Sentinels, place};
use super::connection::{Connection, Means, login};
use super::pipeline::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::sync::lock;

/// A master, as the sentinels named it.
#[derive(Clone)]
pub struct Named {
    pub host: String,
    pub port: u16,
    /// When they were asked.
    asked: Instant,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the master at {}", place(&self.host, self.port))
    }
}

/// The master, by the first sentinel that knows.
pub fn master(sentinels: &Sentinels, means: &Means, deadline: Instant) -> Result<Named> {
    let asked = Instant::now();
    let (host, port) = address::first_of(&sentinels.hosts, "sentinel", deadline, |host, port, deadline| {
        ask(sentinels, host, port, means, deadline)
    })?;
    Ok(Named { host, port, asked })
}

fn ask(sentinels: &Sentinels, host: &str, port: u16, means: &Means, deadline: Instant) -> Result<(String, u16)> {
    let mut connection = Connection::connect_to(&Place::Tcp { host, port }, means, deadline)?;
    let mut pipeline = Pipeline::new();
    login(&sentinels.username, &sentinels.password).iter().for_each(|login| pipeline.push(login));
    pipeline.push(redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(&sentinels.service));
    let exchange = connection.exchange(&pipeline.packed, pipeline.len(), deadline.into());
    if let Some(error) = first_refusal(&exchange.replies).or(exchange.failure) {
        return Err(error);
    }
    let unavailable = |why: String| Error::new(Kind::Unavailable, why);
    match exchange.replies.last() {
        Some(Value::Nil) => Err(unavailable(format!("knows no service {:?}", sentinels.service))),
        Some(reply) => redis::from_redis_value_ref(reply).map_err(|_| unavailable("answers with no address".into())),
        None => Err(unavailable("does not answer".into())),
    }
}

/// What the sentinels said last. A master that they replace while it lives goes on taking records, which are lost, until they
/// make it a replica some ten seconds later: so they are asked again and again.
pub struct Watch(Mutex<Look>);

struct Look {
    named: Option<Named>,
    is_under_way: bool,
    ended: Instant,
}

/// When they are to be asked.
pub enum Due {
    /// They were a moment ago, or are just now.
    Not,
    /// By a thread; the caller need not wait.
    Soon,
    /// Before anything is sent: nobody has asked for long.
    Now,
}

/// For so long nobody asks them again.
const FRESH: Duration = Duration::from_secs(1);
/// For so long a caller trusts what they said.
const TRUSTED: Duration = Duration::from_secs(2);

impl Watch {
    pub fn new() -> Self {
        Watch(Mutex::new(Look { named: None, is_under_way: false, ended: Instant::now() }))
    }

    /// Whether to ask them now. Who does says with [`Self::end`] what came of it.
    pub fn begin(&self) -> Due {
        let mut look = lock(&self.0);
        let age = look.ended.elapsed();
        if look.is_under_way || age < FRESH {
            return Due::Not;
        }
        look.is_under_way = true;
        if age < TRUSTED { Due::Soon } else { Due::Now }
    }

    /// What they said, if anything.
    pub fn end(&self, named: Option<Named>) {
        let mut look = lock(&self.0);
        look.named = named.or(look.named.take());
        (look.is_under_way, look.ended) = (false, Instant::now());
    }

    /// Who was named instead of a master since, if another one.
    pub fn successor(&self, of: &Named) -> Option<Named> {
        let look = lock(&self.0);
        let differs = |later: &&Named| later.asked > of.asked && (&later.host, later.port) != (&of.host, of.port);
        look.named.as_ref().filter(differs).cloned()
    }
}
