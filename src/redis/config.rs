//! Settings of the pool, from a URL or the environment. Messages never hold a password.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::tls::Authorities;
use crate::error::{Error, Result};

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or address (IPv6 without brackets) and a port.
    #[allow(missing_docs)]
    Tcp { host: String, port: u16 },
    /// The path of a unix socket.
    Unix(PathBuf),
    /// Wherever the sentinels say that the master is.
    Sentinel(Sentinels),
    /// Some servers of a cluster, of which each knows all others: host names or addresses, and ports; at least one.
    Cluster(Vec<(String, u16)>),
}

/// Who knows where the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Their host names or addresses, and ports; at least one.
    pub hosts: Vec<(String, u16)>,
    /// What they call the master.
    pub service: String,
    /// For logging in to them; `None` is their default user.
    pub username: Option<String>,
    /// `None` where they want no log-in.
    pub password: Option<String>,
}

/// Everything that can be set. Two pools with equal settings are the same pool.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The server.
    pub address: Address,
    /// `None` is Redis's default user.
    pub username: Option<String>,
    /// `None` where no log-in is needed.
    pub password: Option<String>,
    /// The number of the database.
    pub db: u32,
    /// Connections at most.
    pub pool_size: usize,
    /// For making one connection, log-in included.
    pub connect_timeout: Duration,
    /// For a whole call: waiting for a connection, all replies, every retry.
    pub timeout: Duration,
    /// Life of a list that nobody takes; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Put before every request id.
    pub prefix: String,
    /// Whether a store returns when its records are queued.
    pub behind: bool,
    /// Records that may be queued.
    pub queue: usize,
    /// Whom to trust; `None` where the connection is not encrypted.
    pub tls: Option<Authorities>,
    /// Whether to start a server where none listens.
    pub autostart: bool,
    /// How many replicas must have a record before it counts as stored.
    pub wait_replicas: u32,
}

/// Stands for a parameter's name that may be the rest of a password.
const HIDDEN: &str = "(not shown; in a password write '?' as %3F and '&' as %26)";
/// The longest prefix, in bytes.
const MAX_PREFIX: usize = 1024;

impl Config {
    fn at(address: Address) -> Self {
        Config {
            address,
            username: None,
            password: None,
            db: 0,
            pool_size: 8,
            connect_timeout: Duration::from_millis(500),
            timeout: Duration::from_millis(1000),
            ttl: Some(Duration::from_secs(3600)),
            prefix: String::new(),
            behind: false,
            queue: 65536,
            tls: None,
            autostart: false,
            wait_replicas: 0,
        }
    }

    /// Whether the server that is talked to may become a replica, and another one be the master.
    pub fn has_failovers(&self) -> bool {
        matches!(self.address, Address::Sentinel(_))
    }

    /// Reads `REDIS_URL`, or else `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, `REDIS_USERNAME` and `REDIS_PASSWORD`.
    /// Where none of them is set, the same names with `VALKEY_` count. An empty variable is as good as none.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::config(format!("{name} is not UTF-8"))),
        })
    }

    fn from_vars(var: &dyn Fn(&str) -> Result<Option<String>>) -> Result<Self> {
        const NAMES: [&str; 6] = ["URL", "HOST", "PORT", "DB", "USERNAME", "PASSWORD"];
        let mut family = "REDIS";
        let read = |family: &str, name: &str| var(&format!("{family}_{name}"));
        let mut is_set = false;
        for name in NAMES {
            is_set |= read(family, name)?.is_some();
        }
        if !is_set {
            family = "VALKEY";
        }
        if let Some(url) = read(family, "URL")? {
            return Self::from_url(&url).map_err(|error| error.of(format_args!("{family}_URL")));
        }
        let mut config = Self::at(Address::Tcp {
            host: host(&format!("{family}_HOST"), read(family, "HOST")?)?,
            port: match read(family, "PORT")? {
                Some(text) => number(&format!("{family}_PORT"), &text, 1, 65535)? as u16,
                None => 6379,
            },
        });
        if let Some(text) = read(family, "DB")? {
            config.db = db(&format!("{family}_DB"), &text)?;
        }
        config.username = read(family, "USERNAME")?;
        config.password = read(family, "PASSWORD")?;
        Ok(config)
    }

    /// Reads `redis://[[user][:password]@]host[:port][/db][?option=value&...]`, the same with `rediss` for TLS,
    /// `redis+unix:///path[?db=0&user=..&pass=..&option=value]` (`unix://` is the same),
    /// `redis+sentinel://[[user][:password]@]host[:port][,host[:port]...]/service[/db][?option=value&...]`, or
    /// `redis+cluster://[[user][:password]@]host[:port][,host[:port]...][/][?option=value&...]`.
    pub fn from_url(text: &str) -> Result<Self> {
        // The text is never quoted: it may hold a password.
        let expected = example(text);
        let unreadable = |why: &str| Error::config(format!("the URL cannot be read: {why}; expected {expected}"));
        let (first, others) = split_hosts(text);
        let url = Url::parse(&first).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => unreadable("it has no scheme"),
            error => unreadable(&error.to_string()),
        })?;
        if !url.has_authority() {
            return Err(unreadable("no '//' follows the scheme"));
        }
        if url.fragment().is_some() {
            return Err(Error::config("the URL has a '#'; in a user name, password or prefix write it as %23"));
        }
        if !others.is_empty() && !url.scheme().ends_with("sentinel") && !url.scheme().ends_with("cluster") {
            return Err(Error::config(
                "the URL has several hosts, separated by ',': only sentinels and the servers of a cluster are several",
            ));
        }
        // Of a password that was not written as a URL wants it, the rest is found in these parts.
        let is_unix = url.scheme().ends_with("unix");
        if !is_unix && behind_host(text).contains('@') {
            let how = "before it, write '/' as %2F and '?' as %3F; behind it, '@' as %40";
            return Err(Error::config(format!("the URL has an '@' behind its host: {how}")));
        }
        if has_several_logins(&url, text) {
            return Err(Error::config(
                "the URL has a ',' or '@' before its last '@': user and password come once, before all hosts; in them write \
                 ',' as %2C and '@' as %40",
            ));
        }
        let mut config = match url.scheme() {
            "redis" => Self::from_tcp_url(&url)?,
            "rediss" => Config { tls: Some(Authorities::System), ..Self::from_tcp_url(&url)? },
            "unix" | "redis+unix" => Self::from_unix_url(&url)?,
            "redis+sentinel" => Self::from_sentinel_url(&url, &others)?,
            "rediss+sentinel" => Config { tls: Some(Authorities::System), ..Self::from_sentinel_url(&url, &others)? },
            "redis+cluster" => Self::from_cluster_url(&url, &others)?,
            "rediss+cluster" => Config { tls: Some(Authorities::System), ..Self::from_cluster_url(&url, &others)? },
            // Not quoted: in "user:password@host" it is the user.
            _ => {
                return Err(Error::config(
                    "the URL's scheme is none of redis, rediss, redis+unix, unix, redis+sentinel, rediss+sentinel, \
                     redis+cluster, rediss+cluster",
                ));
            }
        };
        config.read_options(&url)?;
        if config.autostart {
            config.check_autostart()?;
        }
        Ok(config)
    }

    /// A private server is on this machine, and has no certificate.
    pub(super) fn check_autostart(&self) -> Result<()> {
        match &self.address {
            _ if self.tls.is_some() => {
                Err(Error::config("autostart=1 starts a server without TLS, but the URL has rediss"))
            }
            Address::Sentinel(_) => Err(Error::config("autostart=1 starts a server, but the URL has sentinels")),
            Address::Cluster(_) => Err(Error::config("autostart=1 starts a server, but the URL has a cluster")),
            Address::Tcp { host, .. } if !is_loopback(host) => Err(Error::config(format!(
                "autostart=1 starts a server here, but the host {host:?} is another machine"
            ))),
            _ => Ok(()),
        }
    }

    fn from_tcp_url(url: &Url) -> Result<Self> {
        let (host, port) = host_and_port(url, 6379)?;
        let mut config = Self::at(Address::Tcp { host, port });
        config.read_login(url)?;
        let path = url.path().trim_start_matches('/');
        if !path.is_empty() {
            config.db = db("the URL's database", path)?;
        }
        Ok(config)
    }

    /// `url` has the first sentinel, `others` are the other ones.
    fn from_sentinel_url(url: &Url, others: &[&str]) -> Result<Self> {
        let hosts = hosts_and_ports(url, others, "sentinel", 26379)?;
        let path = url.path().trim_start_matches('/');
        let (service, number) = path.split_once('/').unwrap_or((path, "0"));
        let service = decode("service", service)?;
        if service.is_empty() {
            return Err(Error::config("the URL names no service: redis+sentinel://host:port/service"));
        }
        let mut config = Self::at(Address::Sentinel(Sentinels { hosts, service, username: None, password: None }));
        config.read_login(url)?;
        config.db = db("the URL's database", number)?;
        Ok(config)
    }

    /// As [`Self::from_sentinel_url`], of a cluster's servers.
    fn from_cluster_url(url: &Url, others: &[&str]) -> Result<Self> {
        let mut config = Self::at(Address::Cluster(hosts_and_ports(url, others, "server", 6379)?));
        config.read_login(url)?;
        match url.path().trim_start_matches('/') {
            "" | "0" => Ok(config),
            path => {
                let path = decode("database", path)?;
                Err(Error::config(format!("the URL's database is {path:?}: a cluster has the database 0 alone")))
            }
        }
    }

    fn read_login(&mut self, url: &Url) -> Result<()> {
        if !url.username().is_empty() {
            self.username = Some(decode("user name", url.username())?);
        }
        self.password = url.password().map(|text| decode("password", text)).transpose()?;
        Ok(())
    }

    fn from_unix_url(url: &Url) -> Result<Self> {
        if url.has_host() || url.path().len() < 2 {
            return Err(Error::config("a unix socket's URL is redis+unix:///path: three slashes and the path"));
        }
        let path = decode("socket path", url.path())?;
        // What a sockaddr_un holds.
        if path.len() > 107 {
            return Err(Error::config(format!("the URL's socket path has {} bytes: at most 107", path.len())));
        }
        Ok(Self::at(Address::Unix(path.into())))
    }

    fn read_options(&mut self, url: &Url) -> Result<()> {
        let is_unix = matches!(self.address, Address::Unix(_));
        let mut seen = Vec::new();
        for pair in url.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(&shown(name), value)?;
            if seen.contains(&name) {
                return Err(Error::config(format!("the URL's parameter {} is given twice", shown(name))));
            }
            seen.push(name);
            match name {
                "pool_size" => self.pool_size = number(name, &value, 1, 4096)? as usize,
                "connect_timeout_ms" => self.connect_timeout = millis(name, &value)?,
                "timeout_ms" => self.timeout = millis(name, &value)?,
                "ttl_s" => {
                    let seconds = number(name, &value, 0, u32::MAX.into())?;
                    self.ttl = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                "prefix" => self.prefix = prefix(value)?,
                "write" => match value.as_str() {
                    "sync" => self.behind = false,
                    "behind" => self.behind = true,
                    _ => return Err(Error::config(format!("write is {value:?}: must be sync or behind"))),
                },
                "queue" => self.queue = number(name, &value, 1, 1 << 24)? as usize,
                "autostart" => self.autostart = number(name, &value, 0, 1)? == 1,
                "tls_ca" => match &mut self.tls {
                    Some(authorities) => *authorities = Authorities::File(value),
                    None => return Err(Error::config("tls_ca is given, but the URL's scheme is not rediss")),
                },
                "wait_replicas" => self.wait_replicas = number(name, &value, 0, 1000)? as u32,
                "sentinel_user" | "sentinel_pass" => match &mut self.address {
                    Address::Sentinel(sentinels) if name == "sentinel_user" => sentinels.username = Some(value),
                    Address::Sentinel(sentinels) => sentinels.password = Some(value),
                    _ => return Err(Error::config(format!("{name} is given, but the URL has no sentinels"))),
                },
                "db" if is_unix => self.db = db("db", &value)?,
                "db" => {
                    let place = match self.address {
                        Address::Cluster(_) => "a cluster has the database 0 alone",
                        Address::Sentinel(_) => "here the database follows the service: /service/2",
                        _ => "here the database follows the host: /2",
                    };
                    return Err(Error::config(format!("db is for unix sockets; {place}")));
                }
                "user" if is_unix => self.username = Some(value),
                "pass" if is_unix => self.password = Some(value),
                _ => {
                    let known = "pool_size, connect_timeout_ms, timeout_ms, ttl_s, prefix, write, queue, autostart, tls_ca, \
                                 wait_replicas";
                    let more = match self.address {
                        Address::Unix(_) => ", db, user, pass",
                        Address::Sentinel(_) => ", sentinel_user, sentinel_pass",
                        Address::Tcp { .. } | Address::Cluster(_) => "",
                    };
                    let name = if url.query().is_some_and(|query| query.contains("pass=")) {
                        HIDDEN.into()
                    } else {
                        shown(name)
                    };
                    return Err(Error::config(format!(
                        "the URL has an unknown parameter {name}; there are {known}{more}"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Config {
    /// The settings that are not as in `other`, by the names that a URL gives them.
    pub fn differences(&self, other: &Config) -> String {
        let differing = [
            ("address", self.address != other.address),
            ("user name", self.username != other.username),
            ("password", self.password != other.password),
            ("database", self.db != other.db),
            ("pool_size", self.pool_size != other.pool_size),
            ("connect_timeout_ms", self.connect_timeout != other.connect_timeout),
            ("timeout_ms", self.timeout != other.timeout),
            ("ttl_s", self.ttl != other.ttl),
            ("prefix", self.prefix != other.prefix),
            ("write", self.behind != other.behind),
            ("queue", self.queue != other.queue),
            ("TLS", self.tls != other.tls),
            ("autostart", self.autostart != other.autostart),
            ("wait_replicas", self.wait_replicas != other.wait_replicas),
        ];
        let names: Vec<&str> = differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
        names.join(", ")
    }
}

/// A URL with the first of several hosts alone, and the others.
fn split_hosts(url: &str) -> (String, Vec<&str>) {
    let start = url.find("//").map_or(0, |at| at + 2);
    let end = url.len() - behind_host(url).len();
    let hosts = url[..end].rfind('@').map_or(start, |at| at + 1).max(start);
    let mut each = url[hosts..end].split(',');
    let first = each.next().unwrap_or("");
    (format!("{}{first}{}", &url[..hosts], &url[end..]), each.collect())
}

/// Those of the first host, which `url` has, and of the others.
fn hosts_and_ports(url: &Url, others: &[&str], what: &str, usual: u16) -> Result<Vec<(String, u16)>> {
    let mut hosts = vec![host_and_port(url, usual)?];
    for (i, other) in others.iter().enumerate() {
        let url = Url::parse(&format!("redis://{other}")).ok().filter(|url| url.has_host());
        // Not quoted: where the '@' is missing, it may be the rest of a password.
        let number = i + 2;
        let refusal = || Error::config(format!("{what} number {number} of the URL is no host or host:port"));
        let url = url.ok_or_else(refusal)?;
        hosts.push(host_and_port(&url, usual)?);
    }
    Ok(hosts)
}

fn host_and_port(url: &Url, usual: u16) -> Result<(String, u16)> {
    let host = match url.host() {
        None => "localhost".to_string(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => decode("host", &host.to_string())?,
    };
    match url.port().unwrap_or(usual) {
        0 => Err(Error::config("the URL's port is 0: must be a whole number from 1 to 65535")),
        port => Ok((host, port)),
    }
}

/// What a URL looks like.
fn example(url: &str) -> &'static str {
    match url.split_once(':') {
        Some((scheme, _)) if scheme.ends_with("+sentinel") => "redis+sentinel://user:password@host:26379/service/0",
        Some((scheme, _)) if scheme.ends_with("+cluster") => "redis+cluster://user:password@host:6379",
        _ => "redis://user:password@host:6379/0",
    }
}

/// Whether each of several hosts may have been given a user and a password.
fn has_several_logins(url: &Url, text: &str) -> bool {
    let takes_several = url.scheme().ends_with("sentinel") || url.scheme().ends_with("cluster");
    let authority = &text[..text.len() - behind_host(text).len()];
    takes_several && authority.rsplit_once('@').is_some_and(|(login, _)| login.contains([',', '@']))
}

/// What follows the authority of a URL, as it was written: `Url` resolves dots in its path, which would hide some of it.
fn behind_host(url: &str) -> &str {
    let authority = url.find("//").map_or(0, |at| at + 2);
    url[authority..].find(['/', '?', '#']).map_or("", |at| &url[authority + at..])
}

/// A parameter's name as a message may show it. One that looks like no name may be the rest of a password.
fn shown(name: &str) -> String {
    let is_name = name.len() <= 32 && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if is_name { name.to_string() } else { HIDDEN.to_string() }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn decode(what: &str, text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err(Error::config(format!("the URL's {what} is not UTF-8 or has a NUL in it"))),
    }
}

fn number(name: &str, text: &str, least: u64, most: u64) -> Result<u64> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Error::config(format!("{name} is {text:?}: must be a whole number from {least} to {most}")))
}

fn millis(name: &str, text: &str) -> Result<Duration> {
    number(name, text, 1, 3_600_000).map(Duration::from_millis)
}

fn db(name: &str, text: &str) -> Result<u32> {
    number(name, text, 0, i32::MAX as u64).map(|db| db as u32)
}

/// A host name or address from a variable.
fn host(name: &str, text: Option<String>) -> Result<String> {
    let host = text.unwrap_or_else(|| "localhost".into());
    if host.contains('@') {
        return Err(Error::config(format!("{name} has an '@' in it: must be a host name or address alone")));
    }
    match host.parse::<Ipv6Addr>() {
        // As a URL has it: of one address there are many spellings.
        Ok(address) => Ok(address.to_string()),
        Err(_) if host.contains([':', '/']) => {
            Err(Error::config(format!("{name} is {host:?}: must be a host name or address alone")))
        }
        Err(_) => Ok(host),
    }
}

fn prefix(text: String) -> Result<String> {
    if text.len() > MAX_PREFIX {
        return Err(Error::config(format!("prefix has {} bytes: at most {MAX_PREFIX}", text.len())));
    }
    Ok(text)
}

/// The server, as messages name it: no user, no password.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match &self.address {
            Address::Tcp { host, port } => write!(f, "{scheme}://{}/{}", place(host, *port), self.db),
            Address::Unix(path) => write!(f, "redis+unix://{}?db={}", path.display(), self.db),
            Address::Sentinel(Sentinels { hosts, service, .. }) => {
                write!(f, "{scheme}+sentinel://{}/{service}/{}", places(hosts), self.db)
            }
            Address::Cluster(hosts) => write!(f, "{scheme}+cluster://{}", places(hosts)),
        }
    }
}

/// Several hosts and ports as a URL has them.
fn places(hosts: &[(String, u16)]) -> String {
    let places: Vec<String> = hosts.iter().map(|(host, port)| place(host, *port)).collect();
    places.join(",")
}

/// A host and port as a URL has them.
pub fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn tcp(host: &str, port: u16) -> Config {
        Config::at(Address::Tcp { host: host.into(), port })
    }

    fn env(vars: &[(&str, &str)]) -> Result<Config> {
        Config::from_vars(&|name| Ok(vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())))
    }

    fn refusal(url: &str) -> String {
        let Err(error) = Config::from_url(url) else { panic!("{url} was accepted") };
        assert_eq!(error.kind, Kind::Config);
        error.message
    }

    // The derived one would print the password; a failing test may.
    impl fmt::Debug for Config {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self} {:?} {:?} {:?} {:?}", self.username, self.password, self.timeout, self.prefix)
        }
    }

    #[test]
    fn an_empty_environment_means_the_defaults() {
        assert_eq!(env(&[]).unwrap(), tcp("localhost", 6379));
    }

    #[test]
    fn the_environment_is_obeyed() {
        let config = env(&[("REDIS_HOST", "h"), ("REDIS_PORT", "7"), ("REDIS_DB", "3"), ("REDIS_PASSWORD", "p")]);
        assert_eq!(config.unwrap(), Config { db: 3, password: Some("p".into()), ..tcp("h", 7) });
        assert_eq!(env(&[("REDIS_URL", "redis://u:1"), ("REDIS_HOST", "h")]).unwrap(), tcp("u", 1));
        let error = env(&[("REDIS_PORT", "tcp://10.0.0.1:6379")]).unwrap_err();
        assert!(error.message.contains("REDIS_PORT is \"tcp://10.0.0.1:6379\""), "{error}");
    }

    #[test]
    fn a_host_is_a_host_alone() {
        for host in ["127.0.0.1:6379", "redis://h"] {
            let error = env(&[("REDIS_HOST", host)]).unwrap_err();
            assert!(error.message.contains("REDIS_HOST is"), "{error}");
        }
        let error = env(&[("REDIS_HOST", "user:secret@h")]).unwrap_err();
        assert!(error.message.contains("REDIS_HOST has an '@'") && !error.message.contains("secret"), "{error}");
        for spelling in ["::1", "0:0:0:0:0:0:0:1"] {
            assert_eq!(env(&[("REDIS_HOST", spelling)]).unwrap(), tcp("::1", 6379));
        }
    }

    #[test]
    fn differences_are_named_without_values() {
        let (one, other) = (tcp("h", 1), Config { password: Some("secret".into()), ttl: None, ..tcp("h", 1) });
        assert_eq!(one.differences(&other), "password, ttl_s");
    }

    #[test]
    fn valkey_names_count_where_no_redis_name_is_set() {
        assert_eq!(env(&[("VALKEY_HOST", "v"), ("VALKEY_PORT", "9")]).unwrap(), tcp("v", 9));
        assert_eq!(env(&[("VALKEY_HOST", "v"), ("REDIS_DB", "0")]).unwrap(), tcp("localhost", 6379));
    }

    #[test]
    fn a_url_says_everything() {
        let url = "redis://us%40er:p%3Aw@example.org:7000/2?timeout_ms=250&connect_timeout_ms=50&ttl_s=0&prefix=a%26b&pool_size=3&write=sync&queue=9&autostart=0";
        let expected = Config {
            username: Some("us@er".into()),
            password: Some("p:w".into()),
            db: 2,
            pool_size: 3,
            connect_timeout: Duration::from_millis(50),
            timeout: Duration::from_millis(250),
            ttl: None,
            prefix: "a&b".into(),
            queue: 9,
            ..tcp("example.org", 7000)
        };
        assert_eq!(Config::from_url(url).unwrap(), expected);
        assert_eq!(Config::from_url("redis://[::1]:6380").unwrap(), tcp("::1", 6380));
        assert_eq!(Config::from_url("redis://[::1]:6380").unwrap().to_string(), "redis://[::1]:6380/0");
        assert_eq!(Config::from_url("redis://").unwrap(), tcp("localhost", 6379));
    }

    #[test]
    fn sentinels_are_several_hosts_and_a_service() {
        let url = "redis+sentinel://us%40er:p%2Cw@a:1,[::1],b.example:3/main/2?sentinel_user=s&sentinel_pass=t&wait_replicas=1";
        let sentinels = Sentinels {
            hosts: vec![("a".into(), 1), ("::1".into(), 26379), ("b.example".into(), 3)],
            service: "main".into(),
            username: Some("s".into()),
            password: Some("t".into()),
        };
        let expected = Config {
            username: Some("us@er".into()),
            password: Some("p,w".into()),
            db: 2,
            wait_replicas: 1,
            ..Config::at(Address::Sentinel(sentinels))
        };
        let config = Config::from_url(url).unwrap();
        assert_eq!(config, expected);
        assert_eq!(config.to_string(), "redis+sentinel://a:1,[::1]:26379,b.example:3/main/2");
        let alone = Config::from_url("rediss+sentinel://a/main").unwrap();
        assert_eq!(alone.to_string(), "rediss+sentinel://a:26379/main/0");
    }

    #[test]
    fn a_cluster_is_some_of_its_servers() {
        let hosts = vec![("a".into(), 1), ("::1".into(), 6379)];
        let expected = Config {
            password: Some("p,w".into()),
            pool_size: 2,
            tls: Some(Authorities::System),
            ..Config::at(Address::Cluster(hosts))
        };
        let config = Config::from_url("rediss+cluster://:p%2Cw@a:1,[::1]/0?pool_size=2").unwrap();
        assert_eq!(config, expected);
        assert_eq!(config.to_string(), "rediss+cluster://a:1,[::1]:6379");
        assert_eq!(Config::from_url("redis+cluster://").unwrap().to_string(), "redis+cluster://localhost:6379");
    }

    #[test]
    fn unix_sockets_have_their_own_parameters() {
        let expected = Config {
            db: 4,
            username: Some("u".into()),
            password: Some("p".into()),
            ..Config::at(Address::Unix("/run/a b.sock".into()))
        };
        for scheme in ["unix", "redis+unix"] {
            let url = format!("{scheme}:///run/a%20b.sock?db=4&user=u&pass=p");
            assert_eq!(Config::from_url(&url).unwrap(), expected);
        }
        assert!(refusal("unix://run/a.sock").contains("three slashes"));
        assert!(refusal("redis://h?db=1").contains("follows the host"));
    }

    #[test]
    fn a_refusal_names_the_parameter_and_its_value() {
        assert!(refusal("redis://h?timeout_ms=soon").contains("timeout_ms is \"soon\""));
        assert!(refusal("redis://h?timeout_ms=0").contains("timeout_ms is \"0\""));
        assert!(refusal("redis://h?pool_size=-1").contains("pool_size is \"-1\""));
        assert!(refusal("redis://h?colour=red").contains("unknown parameter colour"));
        assert!(refusal("redis://h?ttl_s=1&ttl_s=2").contains("ttl_s is given twice"));
        assert!(refusal("redis://h/x").contains("database is \"x\""));
        assert!(refusal("redis://h?write=often").contains("write is \"often\""));
        assert!(refusal("redis://h?autostart=2").contains("autostart is \"2\""));
        assert!(refusal("redis://h?autostart=1").contains("another machine"));
        assert!(refusal("redis://h?tls_ca=/x").contains("tls_ca"));
        assert!(refusal("redis+cluster://h/1").contains("database is \"1\""));
        assert!(refusal("redis+cluster://h,:7").contains("server number 2 of the URL is no host"));
        assert!(refusal("redis+cluster://h:x").contains("expected redis+cluster://"));
        assert!(refusal("redis+cluster://a:b@g,a:b@h").contains("come once"));
        assert!(refusal("redis+cluster://h?db=1").contains("the database 0 alone"));
        assert!(refusal("redis+sentinel://h/s?db=1").contains("follows the service"));
        assert!(refusal("redis+cluster://h?autostart=1").contains("cluster"));
        assert!(refusal("redis+sentinel://h").contains("no service"));
        assert!(refusal("redis+sentinel://h,:x/s").contains("no host"));
        assert!(refusal("redis+sentinel://h,b:0/s").contains("port is 0"));
        assert!(refusal("redis+sentinel://h/s/x").contains("database is \"x\""));
        assert!(refusal("redis+sentinel://h/s?autostart=1").contains("sentinels"));
        assert!(refusal("redis://h?sentinel_pass=x").contains("no sentinels"));
        assert!(refusal("redis://a,b").contains("several hosts"));
        assert!(refusal("redis://h?wait_replicas=-1").contains("wait_replicas is \"-1\""));
        assert!(refusal("http://h").contains("scheme"));
        assert!(refusal("").contains("no scheme"));
        assert!(refusal("localhost").contains("no scheme"));
        assert!(refusal("redis:/localhost").contains("no '//'"));
        assert!(refusal(&format!("redis://h?prefix={}", "p".repeat(1025))).contains("1025 bytes"));
    }

    #[test]
    fn no_message_holds_a_password() {
        for url in [
            "redis://user:se?cret@host",
            "redis+sentinel://user:se,cret/@host/s",
            "redis+sentinel://user:se,cret@host/s",
            "redis+sentinel://h,user:secret@b/s?colour=1",
            "redis+cluster://user:secret@h/cret@b",
            "redis+cluster://h,user:secret@b?colour=1",
            "redis+cluster://user:secret@a,user:secret@b",
            "redis+cluster://user:se,cret:x",
            "redis+sentinel://h/s?sentinel_pass=se&cret",
            "redis://user:12?cret@host",
            "redis://user:se#cret@host",
            "redis://user:se/cret@host",
            "redis://user:12/cret@host",
            "redis://user:12/se?cret@host",
            "redis://user:12?cret=x@host",
            "redis://user:/cret/@host/%2E.?",
            "redis://user:12?timeout_ms=cret@h",
            "redis://user:1?write=cret@h",
            "redis://user:12/cret?x@h",
            "redis:user:secret",
            "unix:///s?pass=hun&secret",
            "redis://:secret@host?colour=1",
            "redis://:secret@host:99999",
            "redis://:cret%ff@host",
            "user:secret@host",
            "secret:secret@host",
            "unix:///s?pass=secret&db=x",
            "unix:///s?pass=cret%00",
        ] {
            let message = refusal(url);
            assert!(!message.contains("cret"), "{url}: {message}");
        }
        assert!(!Config::from_url("redis://u:secret@h").unwrap().to_string().contains("secret"));
    }
}
