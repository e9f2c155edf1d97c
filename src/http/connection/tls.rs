//! TLS for callers: the server's certificate, which may be replaced at run time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::config::TlsConfig;

/// The ALPN name of HTTP/2.
pub(super) const HTTP2: &[u8] = b"h2";

/// A certificate or key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use `tls.{key}` = `{}`: {reason}", path.display())]
pub struct TlsError {
    key: &'static str,
    path: PathBuf,
    reason: String,
}

/// The TLS configuration of new connections.
pub struct Tls {
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads the files of `config`.
    ///
    /// # Errors
    /// When a file cannot be read, or the key does not belong to the certificate.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self { current: RwLock::new(Arc::new(read(config)?)) })
    }

    /// Loads the files of `config` for new connections.
    ///
    /// # Errors
    /// As [`Tls::load`]; the certificate in use stays.
    pub fn reload(&self, config: &TlsConfig) -> Result<(), TlsError> {
        let new = Arc::new(read(config)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(current).accept(stream).await
    }
}

fn read(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    fn failed<E: ToString>(key: &'static str, path: &Path) -> impl Fn(E) -> TlsError {
        move |error| TlsError { key, path: path.to_owned(), reason: error.to_string() }
    }
    let (certificate, key) = (config.certificate.as_path(), config.key.as_path());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(failed("certificate", certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed("key", key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed("certificate", certificate))?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(failed("key", key))?;
    server.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}
