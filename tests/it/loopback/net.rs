//! What is between a client and a loopback large model: TLS, a proxy, or both. Selected by an
//! environment variable, so that the same tests run over each.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The variable that selects it.
pub const OVER: &str = "LOOPBACK_OVER";
/// A host that cannot be resolved: it is reachable only through a proxy.
const HOST: &str = "endpoint.test";

/// What is in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Plain,
    Tls,
    Proxy,
    TlsThroughProxy,
}

impl Over {
    /// What the environment selects.
    pub fn now() -> Self {
        let name = std::env::var(OVER).unwrap_or_default();
        let all = [Self::Tls, Self::Proxy, Self::TlsThroughProxy];
        all.into_iter().find(|over| over.name() == name).unwrap_or(Self::Plain)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::TlsThroughProxy => "tls-through-proxy",
        }
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::TlsThroughProxy)
    }

    /// The URL of a loopback at this address.
    pub fn url(self, address: SocketAddr) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let host = match self {
            Self::Plain => address.ip().to_string(),
            Self::Tls => "localhost".to_owned(),
            Self::Proxy | Self::TlsThroughProxy => HOST.to_owned(),
        };
        format!("{scheme}://{host}:{}/v1", address.port())
    }
}

/// A private authority and the certificate it gave.
struct Authority {
    pem: PathBuf,
    server: Arc<ServerConfig>,
    _folder: tempfile::TempDir,
}

fn authority() -> &'static Authority {
    static MADE: OnceLock<Authority> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let names = ["localhost".to_owned(), HOST.to_owned()];
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pem = folder.path().join("ca.pem");
        std::fs::write(&pem, root.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Authority { pem, server: Arc::new(server), _folder: folder }
    })
}

/// The file of the private authority, if TLS is in between.
pub fn ca() -> Option<&'static Path> {
    Over::now().is_tls().then(|| authority().pem.as_path())
}

/// Adds TLS in front of a loopback at `address`, if selected; returns the address to use.
pub async fn front(address: SocketAddr) -> Option<(SocketAddr, AbortHandle)> {
    if !Over::now().is_tls() {
        return None;
    }
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::clone(&authority().server));
    let accepting = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                client.set_nodelay(true).unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = net::TcpStream::connect(address).await.unwrap();
                server.set_nodelay(true).unwrap();
                // A reset connection ends without a close notification here, too.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Some((own, accepting.abort_handle()))
}

/// A proxy that routes every host to this machine. Its threads end with the process.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(client));
            }
        });
        Self { address, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut client: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 16 * 1024];
        let read = client.read(&mut piece).ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&piece[..read]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let is_tunnel = text.starts_with("CONNECT ");
    let place = text.split(' ').nth(1)?;
    let authority = place.strip_prefix("http://").unwrap_or(place).split('/').next()?.to_owned();
    let port: u16 = authority.rsplit(':').next()?.parse().ok()?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    server.set_nodelay(true).ok()?;
    client.set_nodelay(true).ok()?;
    // Requests contain the whole URL for a proxy, and the path for a server.
    let absolute = format!(" http://{authority}/").into_bytes();
    match is_tunnel {
        true => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?,
        false => server.write_all(&replaced(&head, &absolute)).ok()?,
    }
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut piece) {
            let piece = &piece[..read];
            let sent = match is_tunnel {
                true => to_server.write_all(piece),
                false => to_server.write_all(&replaced(piece, &absolute)),
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    Some(())
}

fn replaced(bytes: &[u8], absolute: &[u8]) -> Vec<u8> {
    match bytes.windows(absolute.len()).position(|window| window == absolute) {
        Some(at) => [&bytes[..at], b" /", &bytes[at + absolute.len()..]].concat(),
        None => bytes.to_vec(),
    }
}
