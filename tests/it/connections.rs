//! Connections: TLS, and clients that take their time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prompt_r1::http::{ServerConfig, Tls, TlsConfig};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::loopback::{Loopback, Script};
use crate::process::{command, told};
use crate::server::{Server, Setup};

fn hurried() -> ServerConfig {
    ServerConfig {
        header_timeout_s: 1,
        body_timeout_s: 1,
        write_timeout_s: 1,
        ..ServerConfig::default()
    }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url.rsplit('/').next().unwrap()).await.unwrap()
}

/// All that comes until the server closes the connection, and how long that took.
async fn until_closed(stream: &mut TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    // A reset closes as well.
    let _ = read.expect("the connection stays open");
    (String::from_utf8_lossy(&all).into_owned(), begun.elapsed())
}

#[tokio::test]
async fn clients_that_send_too_slowly_are_cut_off() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server = hurried();
    let server = setup.start(&upstream).await;
    let head = "POST /v1/solve HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let table = [
        ("", ""),
        ("GET", ""),
        (head, ""),
        (&format!("{head}content-length: 20\r\n\r\n{{\"que"), "HTTP/1.1 408"),
    ];
    for (sent, expected) in table {
        let mut stream = connect(&server).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (told, took) = until_closed(&mut stream).await;
        assert!(told.starts_with(expected), "{sent:?}: {told}");
        assert!(took < Duration::from_secs(10), "{sent:?}: {took:?}");
    }
    // A byte now and then does not help.
    let mut stream = connect(&server).await;
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        for byte in head.bytes().cycle() {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reader.read_to_end(&mut rest) => {}
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the drip goes on"),
    }
    assert_eq!(server.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_off() {
    let line = format!("data: {}\n\n", "x".repeat(8000));
    let upstream = Loopback::answering(move |_| Script::endless("text/event-stream", &line)).await;
    let mut setup = Setup::relay();
    setup.server = hurried();
    let server = setup.start(&upstream).await;
    let mut stream = connect(&server).await;
    let body = json!({"model": "model-1", "stream": true, "messages": []}).to_string();
    let length = body.len();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    upstream.wait_for_disconnects(1).await;
    server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
}

#[tokio::test]
async fn connections_beyond_the_most_wait() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server = ServerConfig { max_connections: 1, ..hurried() };
    let server = setup.start(&upstream).await;
    // It holds the only place until it is cut off.
    let first = connect(&server).await;
    let begun = Instant::now();
    assert_eq!(server.get("/livez").await.status(), 200);
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    drop(first);
}

/// Writes a certificate for `localhost` of its own authority.
fn certify(folder: &Path) -> (TlsConfig, Certificate) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config =
        TlsConfig { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
    let certificate = made.cert.pem();
    std::fs::write(&config.certificate, &certificate).unwrap();
    std::fs::write(&config.key, made.signing_key.serialize_pem()).unwrap();
    (config, Certificate::from_pem(certificate.as_bytes()).unwrap())
}

fn client(certificate: Certificate) -> ClientBuilder {
    Client::builder().no_proxy().tls_certs_only([certificate])
}

#[tokio::test]
async fn tls_speaks_both_versions_of_http_and_takes_new_certificates() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, old) = certify(folder.path());
    let tls = Arc::new(Tls::load(&config).unwrap());
    let mut setup = Setup::relay();
    setup.server = hurried();
    setup.tls = Some(tls.clone());
    let server = setup.start(&upstream).await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost") + "/v1/solve";
    let ask = async |client: ClientBuilder| {
        let request = client.build().unwrap().post(&url).json(&json!({"question": "a"}));
        request.send().await
    };
    for (client, version) in [
        (client(old.clone()), Version::HTTP_2),
        (client(old.clone()).http1_only(), Version::HTTP_11),
    ] {
        let response = ask(client).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert_eq!(response.json::<serde_json::Value>().await.unwrap()["answer"], "ok");
    }
    // Whoever does not speak TLS, or says nothing at all, does not stay.
    for sent in ["GET / HTTP/1.1\r\n\r\n", ""] {
        let mut stream = connect(&server).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (told, took) = until_closed(&mut stream).await;
        assert!(!told.contains("HTTP/1.1 200") && took < Duration::from_secs(10), "{told}");
    }

    let (config, new) = certify(folder.path());
    tls.reload(&config).unwrap();
    assert!(ask(client(old)).await.unwrap_err().is_connect());
    assert_eq!(ask(client(new.clone())).await.unwrap().status(), 200);
    // A broken file leaves the good one in place, and says which it is.
    std::fs::write(&config.key, "nothing").unwrap();
    let error = tls.reload(&config).unwrap_err().to_string();
    assert!(error.starts_with("cannot use `tls.key` = `"), "{error}");
    assert_eq!(ask(client(new)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_container_can_ask_a_server_with_tls() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::relay();
    setup.tls = Some(Arc::new(Tls::load(&certify(folder.path()).0).unwrap()));
    let server = setup.start(&upstream).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut asked = tokio::process::Command::from(command(&["health", "--listen", address]));
    assert_eq!(told(&asked.output().await.unwrap()), (0, String::new()));
}
