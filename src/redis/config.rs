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
}

/// What a URL looks like.
const EXAMPLE: &str = "redis://user:password@host:6379/0";
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
        }
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

    /// Reads `redis://[[user][:password]@]host[:port][/db][?option=value&...]`, the same with `rediss` for TLS, or
    /// `redis+unix:///path[?db=0&user=..&pass=..&option=value]` (`unix://` is the same).
    pub fn from_url(text: &str) -> Result<Self> {
        // The text is never quoted: it may hold a password.
        let unreadable = |why: &str| Error::config(format!("the URL cannot be read: {why}; expected {EXAMPLE}"));
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => unreadable("it has no scheme"),
            error => unreadable(&error.to_string()),
        })?;
        if !url.has_authority() {
            return Err(unreadable("no '//' follows the scheme"));
        }
        if url.fragment().is_some() {
            return Err(Error::config("the URL has a '#'; in a user name, password or prefix write it as %23"));
        }
        // Of a password that was not written as a URL wants it, the rest is found in these parts.
        let is_unix = url.scheme().ends_with("unix");
        if !is_unix && behind_host(text).contains('@') {
            let how = "before it, write '/' as %2F and '?' as %3F; behind it, '@' as %40";
            return Err(Error::config(format!("the URL has an '@' behind its host: {how}")));
        }
        let mut config = match url.scheme() {
            "redis" => Self::from_tcp_url(&url)?,
            "rediss" => Config { tls: Some(Authorities::System), ..Self::from_tcp_url(&url)? },
            "unix" | "redis+unix" => Self::from_unix_url(&url)?,
            scheme @ ("redis+cluster" | "rediss+cluster" | "redis+sentinel" | "rediss+sentinel") => {
                return Err(Error::config(format!("the URL's scheme {scheme:?} is not supported yet")));
            }
            // Not quoted: in "user:password@host" it is the user.
            _ => return Err(Error::config("the URL's scheme is none of redis, rediss, redis+unix, unix")),
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
            Address::Tcp { host, .. } if !is_loopback(host) => Err(Error::config(format!(
                "autostart=1 starts a server here, but the host {host:?} is another machine"
            ))),
            _ => Ok(()),
        }
    }

    fn from_tcp_url(url: &Url) -> Result<Self> {
        let host = match url.host() {
            None => "localhost".to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => decode("host", &host.to_string())?,
        };
        let port = url.port().unwrap_or(6379);
        if port == 0 {
            return Err(Error::config("the URL's port is 0: must be a whole number from 1 to 65535"));
        }
        let mut config = Self::at(Address::Tcp { host, port });
        if !url.username().is_empty() {
            config.username = Some(decode("user name", url.username())?);
        }
        config.password = url.password().map(|text| decode("password", text)).transpose()?;
        let path = url.path().trim_start_matches('/');
        if !path.is_empty() {
            config.db = db("the URL's database", path)?;
        }
        Ok(config)
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
                "db" if is_unix => self.db = db("db", &value)?,
                "db" => return Err(Error::config("db is for unix sockets; here the database follows the host: /2")),
                "user" if is_unix => self.username = Some(value),
                "pass" if is_unix => self.password = Some(value),
                _ => {
                    let known =
                        "pool_size, connect_timeout_ms, timeout_ms, ttl_s, prefix, write, queue, autostart, tls_ca";
                    let unix = if is_unix { ", db, user, pass" } else { "" };
                    let name = if url.query().is_some_and(|query| query.contains("pass=")) {
                        HIDDEN.into()
                    } else {
                        shown(name)
                    };
                    return Err(Error::config(format!(
                        "the URL has an unknown parameter {name}; there are {known}{unix}"
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
        ];
        let names: Vec<&str> = differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
        names.join(", ")
    }
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
        match &self.address {
            Address::Tcp { host, port } => {
                let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
                let [open, close] = if host.contains(':') { ["[", "]"] } else { ["", ""] };
                write!(f, "{scheme}://{open}{host}{close}:{port}/{}", self.db)
            }
            Address::Unix(path) => write!(f, "redis+unix://{}?db={}", path.display(), self.db),
        }
    }
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
        assert!(refusal("redis+cluster://h").contains("not supported yet"));
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
