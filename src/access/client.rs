//! How Redis is reached: plainly, or over TLS.

use std::path::Path;

use redis::{Client, ClientTlsConfig, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::config::REDISS;
use super::{RedisTlsConfig, StoreError};

/// A client for the Redis at `url`, which is not connected yet.
pub(super) fn client(url: &str, tls: Option<&RedisTlsConfig>) -> Result<Client, StoreError> {
    // The error may show the URL, and with it the password.
    let unread = |_| StoreError::Redis("its URL cannot be read".into());
    if !url.starts_with(REDISS) {
        if tls.is_some() {
            let reason = format!("`access.redis_tls` needs a URL that begins with `{REDISS}`");
            return Err(StoreError::Redis(reason.into()));
        }
        return Client::open(url).map_err(unread);
    }
    if url.contains('#') {
        let reason = reason!(
            "Redis's certificate is always verified, so its URL must have no `#…` part";
            hint: "remove that part, and set `access.redis_tls.ca` to the certificate authority"
        );
        return Err(StoreError::Redis(reason));
    }
    // Fails if the process has a provider already, which is then the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificates = match tls {
        Some(tls) => certificates(tls)?,
        None => TlsCertificates { client_tls: None, root_cert: None },
    };
    Client::build_with_tls(url, certificates).map_err(unread)
}

/// The files of `tls`. Each is parsed, so that an error names the file that is wrong.
fn certificates(tls: &RedisTlsConfig) -> Result<TlsCertificates, StoreError> {
    let root_cert = tls.ca.as_deref().map(|path| {
        let trusted = |pem: &[u8]| {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            if roots.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(()) }
        };
        read("ca", path, trusted)
    });
    let client_tls = match (&tls.certificate, &tls.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let shown = |pem: &[u8]| {
                CertificateDer::from_pem_slice(pem).map(|_| ()).map_err(|error| error.to_string())
            };
            let private = |pem: &[u8]| {
                PrivateKeyDer::from_pem_slice(pem).map(|_| ()).map_err(|error| error.to_string())
            };
            Some(ClientTlsConfig {
                client_cert: read("certificate", certificate, shown)?,
                client_key: read("key", key, private)?,
            })
        }
        _ => {
            let reason = "`access.redis_tls.certificate` and `key` go together";
            return Err(StoreError::Redis(reason.into()));
        }
    };
    Ok(TlsCertificates { client_tls, root_cert: root_cert.transpose()? })
}

fn read(
    key: &str,
    path: &Path,
    check: impl FnOnce(&[u8]) -> Result<(), String>,
) -> Result<Vec<u8>, StoreError> {
    let pem = std::fs::read(path).map_err(|error| error.to_string());
    let checked = pem.and_then(|pem| check(&pem).map(|()| pem));
    checked.map_err(|reason| {
        let path = path.display();
        StoreError::Redis(
            format!("cannot use `access.redis_tls.{key}` = `{path}`: {reason}").into(),
        )
    })
}
