//! TLS by rustls, over a socket with deadlines.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::config::{Address, Config};
use super::socket::Timed;
use crate::error::{Error, Result};

/// What a TLS record holds at most.
const RECORD: usize = 16 * 1024;

/// Whom to trust.
#[derive(Clone)]
pub struct Settings {
    client: Arc<ClientConfig>,
}

/// The authorities that a connection trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the system trusts.
    System,
    /// Those in a PEM file, and no others.
    File(String),
}

impl Settings {
    /// Reads the authorities; `None` where the connection is not encrypted.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let Some(authorities) = &config.tls else { return Ok(None) };
        let roots = match authorities {
            Authorities::System => system()?,
            Authorities::File(path) => file(path)?,
        };
        let hosts: Vec<&String> = match &config.address {
            Address::Tcp { host, .. } => vec![host],
            Address::Sentinel(sentinels) => sentinels.hosts.iter().map(|(host, _)| host).collect(),
            Address::Cluster(hosts) => hosts.iter().map(|(host, _)| host).collect(),
            Address::Unix(_) => vec![],
        };
        if let Some(host) = hosts.into_iter().find(|host| ServerName::try_from(host.as_str()).is_err()) {
            return Err(Error::config(format!("the URL's host {host:?} is no name that a certificate could have")));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Connections live long; and a fork could leave the lock of remembered sessions held.
        client.resumption = Resumption::disabled();
        Ok(Some(Settings { client: Arc::new(client) }))
    }
}

fn system() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or("none are installed".into(), ToString::to_string);
        return Err(Error::config(format!("the system's certificate authorities cannot be read ({why}); set tls_ca")));
    }
    Ok(roots)
}

fn file(path: &str) -> Result<RootCertStore> {
    let unreadable = |why: String| Error::config(format!("tls_ca is {path:?}: {why}"));
    let certificates = CertificateDer::pem_file_iter(Path::new(path)).map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = certificate.map_err(|error| error.to_string());
        added.and_then(|ca| roots.add(ca).map_err(|error| error.to_string())).map_err(unreadable)?;
    }
    if roots.is_empty() {
        return Err(unreadable("there is no certificate in it".into()));
    }
    Ok(roots)
}

/// The encryption of one connection.
pub struct Tls(Box<ClientConnection>);

impl Tls {
    /// Shakes hands: afterwards the server has proved to be `host`.
    pub fn agree(settings: &Settings, host: &str, socket: &mut Timed<'_>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(settings.client.clone(), name);
        let mut tls = Tls(Box::new(connection.map_err(io::Error::other)?));
        while tls.0.is_handshaking() {
            tls.0.complete_io(socket)?;
        }
        Ok(tls)
    }

    /// Sends a part of `bytes` as one record, and says how long it is. The server sees all of it or nothing.
    pub fn send(&mut self, bytes: &[u8], socket: &mut Timed<'_>) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(RECORD)];
        self.0.writer().write_all(part)?;
        self.write_all(socket)?;
        Ok(part.len())
    }

    pub fn receive(&mut self, buffer: &mut [u8], socket: &mut Timed<'_>) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.0.read_tls(socket)?;
            self.0.process_new_packets().map_err(io::Error::other)?;
            self.write_all(socket)?;
        }
    }

    fn write_all(&mut self, socket: &mut Timed<'_>) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(socket)?;
        }
        Ok(())
    }
}
