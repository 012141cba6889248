//! TLS towards clients.
//!
//! Nothing here is kept for the process: reading the files again gives a new acceptor, and connections that stand
//! keep the old one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::Tls;

/// The protocol's name in ALPN. A client that begins with TLS at once must offer it.
pub const ALPN: &[u8] = b"postgresql";

/// Why TLS cannot be offered.
#[derive(Debug)]
pub enum TlsError {
    Read(PathBuf, io::Error),
    Pem(PathBuf, pem::Error),
    NoCertificate(PathBuf),
    /// Certificate and key do not fit each other, or one of them is not understood.
    Rejected(PathBuf, rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Pem(path, error) => write!(f, "{} is not in PEM format: {error}", path.display()),
            Self::NoCertificate(path) => write!(f, "{} holds no certificate", path.display()),
            Self::Rejected(path, error) => write!(f, "{} cannot be used: {error}", path.display()),
        }
    }
}

impl std::error::Error for TlsError {}

/// Reads certificate chain and key and makes an acceptor of them.
///
/// # Errors
/// A file cannot be read, or the two cannot be used together.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(&tls.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Pem(tls.certificate.clone(), error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(tls.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?).map_err(|error| TlsError::Pem(tls.key.clone(), error))?;
    let rejected = |error| TlsError::Rejected(tls.certificate.clone(), error);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(rejected)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(rejected)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL: clients of a database keep their connections, so resuming sessions buys nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Read(path.to_owned(), error))
}
