//! Which server has which key.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::Value;

use super::address;
use super::ask::first_refusal;
use super::config::{Address, Config};
use super::connection::{Connection, Means};
use super::node::Node;
use super::pool::Counts;
use super::slot;
use crate::error::{Error, Kind, Result};
use crate::sync::{lock, wait_until};

/// All servers that there are.
pub enum Topology {
    /// One server, or wherever the sentinels say that it is.
    One(Arc<Node>),
    Cluster(Box<Cluster>),
}

/// A cluster, of which some servers were told.
pub struct Cluster {
    means: Means,
    counts: Arc<Counts>,
    /// Stands for all of it, while nothing is known: whether anybody answers.
    pub entry: Arc<Node>,
    /// `None` as long as nothing is known.
    map: ArcSwapOption<Map>,
    /// Held while the map is changed, so that no change is lost, and versions grow.
    change: Mutex<()>,
    look: Mutex<Look>,
    looked: Condvar,
}

/// The last look at the cluster's own map.
#[derive(Default)]
struct Look {
    is_under_way: bool,
    ended: Option<Instant>,
}

/// So many servers at most are asked: each needs time for an answer.
const CANDIDATES: usize = 3;

/// After a look the map is good for so long, unless somebody says otherwise of a slot.
const REST: Duration = Duration::from_millis(250);

/// Which node has which slot.
pub struct Map {
    /// Grows with each change.
    pub version: u64,
    pub nodes: Vec<Arc<Node>>,
    /// For each slot which of the nodes has it.
    slots: Box<[u16]>,
}

/// Of a slot that no node has.
pub(super) const NOBODY: u16 = u16::MAX;

impl Map {
    pub fn node_of(&self, slot: u16) -> Option<&Arc<Node>> {
        self.index_of(slot).map(|index| &self.nodes[index])
    }

    /// The same, as an index into the nodes.
    pub fn index_of(&self, slot: u16) -> Option<usize> {
        self.slots.get(usize::from(slot)).map(|index| usize::from(*index)).filter(|index| *index < self.nodes.len())
    }

    pub fn has(&self, node: &Arc<Node>) -> bool {
        self.nodes.iter().any(|other| Arc::ptr_eq(other, node))
    }

    pub fn has_slots(&self, node: &Arc<Node>) -> bool {
        let index = self.nodes.iter().position(|other| Arc::ptr_eq(other, node));
        index.is_some_and(|index| self.slots.contains(&(index as u16)))
    }

    /// One of all slots that nobody has.
    pub fn gap(&self) -> Option<usize> {
        self.slots.iter().position(|node| *node == NOBODY)
    }

    /// One whose slots the nodes have as `who` says, from the first node on.
    #[cfg(test)]
    pub fn of(version: u64, who: impl Fn(usize) -> u16) -> Self {
        let config = Config::from_url("redis://h").expect("a good URL");
        let node = || Node::new(&Means { config: config.clone(), tls: None }, &Arc::default());
        let slots: Box<[u16]> = (0..slot::COUNT).map(who).collect();
        let count = slots.iter().filter(|node| **node != NOBODY).max().map_or(0, |most| *most + 1);
        Map { version, nodes: (0..count).map(|_| node()).collect(), slots }
    }

    fn find(&self, host: &str, port: u16) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| is_at(node.config(), host, port))
    }
}

fn is_at(config: &Config, host: &str, port: u16) -> bool {
    matches!(&config.address, Address::Tcp { host: its, port: its_port } if its == host && *its_port == port)
}

/// Slots from the first to the last, and who has them.
struct Range {
    first: u16,
    last: u16,
    host: String,
    port: u16,
}

impl Topology {
    pub fn new(means: Means, counts: Arc<Counts>) -> Self {
        let node = Node::new(&means, &counts);
        match means.config.address {
            Address::Cluster(_) => Topology::Cluster(Box::new(Cluster {
                means,
                counts,
                entry: node,
                map: ArcSwapOption::empty(),
                change: Mutex::default(),
                look: Mutex::default(),
                looked: Condvar::new(),
            })),
            _ => Topology::One(node),
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Topology::One(_) => None,
            Topology::Cluster(cluster) => Some(cluster),
        }
    }

    /// Every server that is known.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        match self {
            Topology::One(node) => vec![node.clone()],
            Topology::Cluster(cluster) => cluster.map().map_or_else(Vec::new, |map| map.nodes.clone()),
        }
    }

    /// Who has a key, as far as is known.
    pub fn known_node(&self, key: &str) -> Option<Arc<Node>> {
        match self {
            Topology::One(node) => Some(node.clone()),
            Topology::Cluster(cluster) => cluster.map()?.node_of(slot::of(key)).cloned(),
        }
    }

    /// Fails where who has a key is known to be away.
    pub fn check(&self, key: &str) -> Result<()> {
        match (self.known_node(key), self.cluster()) {
            (Some(node), _) => node.breaker.check(),
            (None, Some(cluster)) if cluster.map().is_none() => cluster.entry.breaker.check(),
            (None, _) => Ok(()),
        }
    }

    /// Whether a node has a key, as far as is known.
    pub fn is_at(&self, key: &str, node: &Arc<Node>) -> bool {
        match self {
            Topology::One(_) => true,
            Topology::Cluster(_) => self.known_node(key).is_some_and(|its| Arc::ptr_eq(&its, node)),
        }
    }
}

impl Cluster {
    pub fn map(&self) -> Option<Arc<Map>> {
        self.map.load_full()
    }

    /// Whether a server is one of those that were told, and not one that these have named.
    pub fn was_told(&self, node: &Node) -> bool {
        match &self.means.config.address {
            Address::Cluster(told) => told.iter().any(|(host, port)| is_at(node.config(), host, *port)),
            _ => false,
        }
    }

    fn new_node(&self, host: &str, port: u16) -> Arc<Node> {
        Node::new(&self.means_at(host, port), &self.counts)
    }

    fn means_at(&self, host: &str, port: u16) -> Means {
        let address = Address::Tcp { host: host.into(), port };
        Means { config: Config { address, ..self.means.config.clone() }, tls: self.means.tls.clone() }
    }

    /// The node at an address that a server has told; a new one if it is not known.
    pub fn node_at(&self, host: &str, port: u16) -> Arc<Node> {
        let known = self.map().and_then(|map| map.find(host, port).cloned());
        known.unwrap_or_else(|| self.change(host, port, |_, _| {}))
    }

    /// A server has told that another one has a slot.
    pub fn moved(&self, slot: u16, host: &str, port: u16) -> Arc<Node> {
        if let Some(node) = self.map().and_then(|map| map.node_of(slot).cloned())
            && is_at(node.config(), host, port)
        {
            return node;
        }
        self.change(host, port, |slots, index| {
            if let Some(its) = slots.get_mut(usize::from(slot)) {
                *its = index;
            }
        })
    }

    fn change(&self, host: &str, port: u16, change: impl Fn(&mut [u16], u16)) -> Arc<Node> {
        let _change = lock(&self.change);
        let Some(map) = self.map() else { return self.new_node(host, port) };
        let (mut nodes, mut slots) = (map.nodes.clone(), map.slots.clone());
        let known = nodes.iter().position(|node| is_at(node.config(), host, port));
        let index = known.unwrap_or_else(|| {
            nodes.push(self.new_node(host, port));
            nodes.len() - 1
        });
        let node = nodes[index].clone();
        change(&mut slots, index as u16);
        self.map.store(Some(Arc::new(Map { version: next_version(), nodes, slots })));
        node
    }

    /// Whether it is time to look at the cluster's own map.
    pub fn wants_look(&self) -> bool {
        let look = lock(&self.look);
        !look.is_under_way && look.ended.is_none_or(|ended| ended.elapsed() > REST)
    }

    /// Asks for the cluster's own map; where somebody else does that, waits for it. Returns the nodes that have no slots any more.
    pub fn look(&self, deadline: Instant) -> Result<Vec<Arc<Node>>> {
        let began = Instant::now();
        let mut look = lock(&self.look);
        while look.is_under_way {
            look = wait_until(&self.looked, look, deadline).ok_or_else(|| self.unknown("no answer in time"))?;
        }
        if look.ended.is_some_and(|ended| ended > began) && self.map.load().is_some() {
            return Ok(Vec::new());
        }
        look.is_under_way = true;
        drop(look);
        let _end = Ended(self);
        self.ask(deadline).map(|ranges| self.install(&ranges))
    }

    fn unknown(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("no connection to {}: {why}", self.means.config))
    }

    /// Whom to ask: some of those that were there when they were last seen, not the same every time, and last one that may be
    /// cut off from the others. Where there are none, all that were told.
    fn candidates(&self) -> Vec<(String, u16)> {
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        let mut known = self.map().map_or_else(Vec::new, |map| map.nodes.clone());
        known.retain(|node| node.breaker.check().is_ok());
        let turn = TURNS.fetch_add(1, Relaxed) % known.len().max(1);
        known.rotate_left(turn);
        known.sort_by_key(|node| node.is_suspect.load(Relaxed));
        let address = |node: &Arc<Node>| match &node.config().address {
            Address::Tcp { host, port } => Some((host.clone(), *port)),
            _ => None,
        };
        let mut hosts: Vec<(String, u16)> = known.iter().filter_map(address).take(CANDIDATES).collect();
        if let (true, Address::Cluster(told)) = (hosts.is_empty(), &self.means.config.address) {
            hosts.extend(told.iter().cloned());
        }
        hosts
    }

    /// Asks one server after the other.
    fn ask(&self, deadline: Instant) -> Result<Vec<Range>> {
        let ask_one = |host: &str, port, deadline| self.ask_one(host, port, deadline);
        let answer = address::first_of(&self.candidates(), "server", deadline, ask_one);
        answer.map_err(|error| error.of(format_args!("no connection to {}", self.means.config)))
    }

    fn ask_one(&self, host: &str, port: u16, deadline: Instant) -> Result<Vec<Range>> {
        let mut connection = Connection::open(&self.means_at(host, port), deadline)?;
        let exchange =
            connection.exchange(&redis::cmd("CLUSTER").arg("SLOTS").get_packed_command(), 1, deadline.into());
        if let Some(error) = first_refusal(&exchange.replies).or(exchange.failure) {
            return Err(error);
        }
        let ranges = exchange.replies.first().and_then(|reply| ranges(reply, host)).unwrap_or_default();
        if ranges.is_empty() {
            return Err(Error::new(Kind::Unavailable, "knows of no slots"));
        }
        Ok(ranges)
    }

    fn install(&self, ranges: &[Range]) -> Vec<Arc<Node>> {
        let _change = lock(&self.change);
        let old = self.map();
        let before = old.as_ref().map_or_else(Vec::new, |map| map.nodes.clone());
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut slots = vec![NOBODY; slot::COUNT].into_boxed_slice();
        for Range { first, last, host, port } in ranges {
            let known = nodes.iter().position(|node| is_at(node.config(), host, *port));
            let index = known.unwrap_or_else(|| {
                let known = before.iter().find(|node| is_at(node.config(), host, *port));
                nodes.push(known.cloned().unwrap_or_else(|| self.new_node(host, *port)));
                nodes.len() - 1
            });
            if let Some(slots) = slots.get_mut(usize::from(*first)..=usize::from(*last)) {
                slots.fill(index as u16);
            }
        }
        let had_slots = |node: &Arc<Node>| old.as_ref().is_some_and(|map| map.has_slots(node));
        let (had, had_none): (Vec<_>, Vec<_>) = before.into_iter().partition(had_slots);
        let is_new = |node: &Arc<Node>| !nodes.iter().any(|other| Arc::ptr_eq(other, node));
        let gone = had.into_iter().filter(is_new).collect();
        // One that is getting its first slot is known to be away as long as it is.
        let kept = had_none.into_iter().filter(|node| is_new(node) && node.breaker.check().is_err());
        let kept: Vec<Arc<Node>> = kept.collect();
        nodes.extend(kept);
        let is_same = |old: &Arc<Map>| {
            let alike = old.nodes.len() == nodes.len() && old.nodes.iter().zip(&nodes).all(|(a, b)| Arc::ptr_eq(a, b));
            alike && old.slots == slots
        };
        if !old.as_ref().is_some_and(is_same) {
            self.map.store(Some(Arc::new(Map { version: next_version(), nodes, slots })));
        }
        gone
    }

    /// Whether a server does not say any more that the cluster is down.
    pub fn is_up(&self, node: &Node, deadline: Instant) -> Result<()> {
        let means = Means { config: node.config().clone(), tls: self.means.tls.clone() };
        let mut connection = Connection::open(&means, deadline)?;
        let exchange = connection.exchange(&redis::cmd("CLUSTER").arg("INFO").get_packed_command(), 1, deadline.into());
        if let Some(error) = exchange.failure {
            return Err(error);
        }
        let says = exchange.replies.first().and_then(|info| redis::from_redis_value_ref::<String>(info).ok());
        match says {
            Some(info) if info.contains("cluster_state:fail") => {
                Err(Error::new(Kind::Unavailable, format!("{}: CLUSTERDOWN The cluster is down", node.config())))
            }
            // If it may not be asked, a call shall learn it.
            _ => {
                node.is_suspect.store(false, Relaxed);
                Ok(())
            }
        }
    }
}

/// Never 0.
fn next_version() -> u64 {
    static VERSIONS: AtomicU64 = AtomicU64::new(1);
    VERSIONS.fetch_add(1, Relaxed)
}

/// The end of a look, whatever came of it.
struct Ended<'a>(&'a Cluster);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *lock(&self.0.look) = Look { is_under_way: false, ended: Some(Instant::now()) };
        self.0.looked.notify_all();
    }
}

/// The answer to CLUSTER SLOTS of the server at `asked`: first, last, the master, and its replicas; of each host, port, and more.
fn ranges(reply: &Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(entries) = reply else { return None };
    let range = |entry: &Value| {
        let Value::Array(entry) = entry else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = entry.as_slice() else { return None };
        let [host, Value::Int(port), ..] = master.as_slice() else { return None };
        let host = match host {
            Value::Nil => asked.to_string(),
            host => redis::from_redis_value_ref::<String>(host).ok()?,
        };
        let host = if host.is_empty() { asked.to_string() } else { host };
        let number = |number: &i64| u16::try_from(*number).ok();
        Some(Range { first: number(first)?, last: number(last)?, host, port: number(port)? })
    };
    // A server whose address is not known to the one that was asked has "?" for a host, and cannot be reached.
    Some(entries.iter().filter_map(range).filter(|range| range.host != "?").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(first: i64, last: i64, host: Value, port: i64) -> Value {
        let server = |host, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), server(host, port), server(text("replica"), 9)])
    }

    fn cluster() -> Cluster {
        let config = Config::from_url("redis+cluster://told:1").unwrap();
        match Topology::new(Means { config, tls: None }, Arc::default()) {
            Topology::Cluster(cluster) => *cluster,
            Topology::One(_) => unreachable!(),
        }
    }

    fn install(cluster: &Cluster, entries: Vec<Value>) -> Vec<String> {
        let gone = cluster.install(&ranges(&Value::Array(entries), "asked").unwrap());
        gone.iter().map(|node| node.config().to_string()).collect()
    }

    fn address(cluster: &Cluster, slot: u16) -> Option<String> {
        cluster.map().unwrap().node_of(slot).map(|node| node.config().to_string())
    }

    #[test]
    fn the_map_is_what_the_servers_say() {
        let cluster = cluster();
        let entries = vec![
            entry(0, 99, text("a"), 1),
            entry(100, 199, Value::Nil, 2),
            entry(200, 299, text("?"), 3),
            entry(300, 16383, text("::1"), 1),
        ];
        assert!(install(&cluster, entries).is_empty());
        assert_eq!(address(&cluster, 99).as_deref(), Some("redis://a:1/0"));
        assert_eq!(address(&cluster, 100).as_deref(), Some("redis://asked:2/0"));
        assert_eq!(address(&cluster, 200), None);
        assert_eq!(address(&cluster, 16383).as_deref(), Some("redis://[::1]:1/0"));
        assert_eq!(cluster.map().unwrap().gap(), Some(200));
    }

    #[test]
    fn a_node_stays_itself_as_long_as_it_has_slots() {
        let cluster = cluster();
        install(&cluster, vec![entry(0, 9, text("a"), 1), entry(10, 19, text("b"), 1)]);
        let (a, before) = (cluster.map().unwrap().node_of(0).unwrap().clone(), cluster.map().unwrap().version);
        assert!(Arc::ptr_eq(&cluster.moved(15, "a", 1), &a));
        cluster.moved(16, "c", 1);
        assert_eq!(address(&cluster, 15).as_deref(), Some("redis://a:1/0"));
        assert_eq!(address(&cluster, 16).as_deref(), Some("redis://c:1/0"));
        assert!(cluster.map().unwrap().version > before);
        let gone = install(&cluster, vec![entry(0, 19, text("a"), 1)]);
        assert_eq!(gone, ["redis://b:1/0", "redis://c:1/0"]);
        assert!(Arc::ptr_eq(cluster.map().unwrap().node_of(19).unwrap(), &a));
        let version = cluster.map().unwrap().version;
        install(&cluster, vec![entry(0, 19, text("a"), 1)]);
        assert_eq!(cluster.map().unwrap().version, version);
    }

    /// A server may say anything.
    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let cluster = cluster();
        install(&cluster, vec![entry(0, 16383, text("a"), 1)]);
        cluster.moved(20000, "b", 1);
        assert_eq!(cluster.map().unwrap().gap(), None);
        assert!(ranges(&Value::Okay, "asked").is_none());
        assert_eq!(ranges(&Value::Array(vec![Value::Nil, entry(-1, 5, text("a"), 1)]), "asked").unwrap().len(), 0);
        install(&cluster, vec![entry(5, 20000, text("a"), 1), entry(9, 3, text("a"), 1), entry(0, 0, text("a"), 1)]);
        assert_eq!(cluster.map().unwrap().gap(), Some(1));
    }
}
