//! Connections: TLS, and slow clients.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prompt_r1::http::{ServerConfig, Tls, TlsConfig};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::loopback::{Gate, Loopback, Script};
use crate::process::{Process, command, outcome};
use crate::server::{Server, Setup, client};

mod windows;

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

/// Everything until the server closes the connection, and how long that took.
async fn until_closed(stream: &mut TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    // A reset also closes it.
    let _ = read.expect("the connection stays open");
    (String::from_utf8_lossy(&all).into_owned(), begun.elapsed())
}

#[tokio::test]
async fn clients_that_send_too_slowly_are_cut_off() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server = hurried();
    let server = setup.start(&upstream).await;
    let head = "POST /v1/solve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let table = [
        ("", ""),
        ("GET", ""),
        (head, ""),
        (&format!("{head}content-length: 20\r\n\r\n{{\"que"), "HTTP/1.1 408"),
    ];
    for (sent, expected) in table {
        let mut stream = connect(&server).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (received, took) = until_closed(&mut stream).await;
        assert!(received.starts_with(expected), "{sent:?}: {received}");
        assert!(took < Duration::from_secs(10), "{sent:?}: {took:?}");
    }
    // An occasional byte does not help.
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
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    upstream.wait_for_disconnects(1).await;
    server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
}

#[tokio::test]
async fn a_connection_beyond_the_most_takes_the_place_of_an_idle_one() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    let patient = ServerConfig::default();
    setup.server = ServerConfig { max_connections: 2, ..patient };
    let server = setup.start(&upstream).await;
    let (mut silent, mut newer) = (connect(&server).await, connect(&server).await);
    // They are accepted in order.
    newer.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    newer.read_exact(&mut first).await.unwrap();
    assert_eq!(server.get("/livez").await.status(), 200);
    assert_eq!(until_closed(&mut silent).await.0, "");
}

#[tokio::test]
async fn connections_that_serve_keep_their_places() {
    let gate = Gate::default();
    let upstream = Loopback::start().await;
    upstream.then(Script::reply("ok").held(&gate));
    let mut setup = Setup::relay();
    setup.server = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let server = setup.start(&upstream).await;
    let asked = tokio::spawn(server.post("/v1/solve", &json!({"question": "a"})).send());
    upstream.wait_for_requests(1).await;
    let other = client();
    let waiting = tokio::spawn(other.get(format!("{}/livez", server.url)).send());
    // It is not accepted, and the one that is being served is not closed.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    gate.open_once();
    assert_eq!(asked.await.unwrap().unwrap().status(), 200);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn idle_connections_stay_longer_than_slow_ones() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server = ServerConfig { idle_timeout_s: 60, ..hurried() };
    let server = setup.start(&upstream).await;
    let get = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = connect(&server).await;
    let mut answer = [0; 12];
    idle.write_all(get).await.unwrap();
    idle.read_exact(&mut answer).await.unwrap();
    // Longer than the time-out of a slow one.
    let mut slow = connect(&server).await;
    slow.write_all(b"GET").await.unwrap();
    until_closed(&mut slow).await;
    idle.write_all(get).await.unwrap();
    let mut rest = String::new();
    while !rest.contains("HTTP/1.1 200") {
        let mut part = [0; 64];
        let count = idle.read(&mut part).await.unwrap();
        assert!(count > 0, "{rest}");
        rest.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    // A next request that begins and does not end times out as well.
    idle.write_all(b"GET").await.unwrap();
    until_closed(&mut idle).await;
}

#[tokio::test]
async fn unread_bodies_do_not_cut_off_the_answer() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let body = vec![b'x'; 30_000_000];
    for (path, status) in [("/v1/solve", 413), ("/nowhere", 404), ("/livez", 405)] {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        let mut stream = connect(&server).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // As clients do that read only after sending everything.
        stream.write_all(&body).await.unwrap();
        let mut first = vec![0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, format!("HTTP/1.1 {status}").as_bytes(), "{path}");
    }
    // A client with `Expect: 100-continue` gets the error at once.
    let mut stream = connect(&server).await;
    let head = "POST /v1/solve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                expect: 100-continue\r\ncontent-length: 50000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = vec![0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, b"HTTP/1.1 413");
}

#[tokio::test]
async fn compressed_bodies_are_taken_or_refused() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let question = br#"{"question": "a"}"#;
    let bomb = vec![b' '; 200_000_000];
    let marked = [b"\xEF\xBB\xBF", &question[..]].concat();
    let table: [(&str, Vec<u8>, u16); 6] = [
        ("gzip", gzip(question), 200),
        ("identity", marked, 200),
        ("gzip", gzip(&bomb), 413),
        ("gzip", question.to_vec(), 400),
        ("br", question.to_vec(), 415),
        ("zstd", question.to_vec(), 415),
    ];
    for (encoding, body, status) in table {
        let request = server.client.post(format!("{}/v1/solve", server.url)).body(body);
        let request = request.header("content-type", "application/json");
        let response = request.header("content-encoding", encoding).send().await.unwrap();
        assert_eq!(response.status(), status, "{encoding}");
    }
    let passed = gzip(br#"{"model": "model-1", "input": "a"}"#);
    let request = server.client.post(format!("{}/v1/embeddings", server.url)).body(passed);
    let request = request.header("content-type", "application/json");
    assert_eq!(request.header("content-encoding", "gzip").send().await.unwrap().status(), 200);
    assert_eq!(upstream.last().json()["input"], "a");
    assert_eq!(upstream.last().header("content-encoding"), None);
}

#[tokio::test]
async fn uploads_that_arrive_together_do_not_wait_for_each_other() {
    const LENGTH: usize = 512 * 1024;
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server.body_limit_bytes = LENGTH;
    setup.server.bounds.bodies_bytes = 2 * LENGTH;
    setup.server.body_timeout_s = 10;
    let server = setup.start(&upstream).await;
    let body = format!("{{\"model\": \"model-1\", \"input\": {:?}}}", "a".repeat(LENGTH - 100));
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // The first halves of all take all of the memory.
    let upload = async || {
        let mut stream = connect(&server).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let (first, second) = body.as_bytes().split_at(body.len() / 2);
        stream.write_all(first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(second).await.unwrap();
        until_closed(&mut stream).await.0
    };
    let uploads = (0..6).map(|_| upload());
    for answer in futures::future::join_all(uploads).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn unknown_paths_get_a_hint() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let table = [
        ("/chat/completions", "ends with `/v1`"),
        ("/v1/chat/completions/", "leave out the slash"),
        ("/v2", "`/docs`"),
    ];
    for (path, hint) in table {
        let (status, error) = server.json(path, json!({})).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(status == 404 && message.contains(hint), "{path}: {message}");
    }
    let request = server.client.get(format!("{}/v1/responses", server.url));
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(request.send().await.unwrap().status(), 426);
}

/// Writes a certificate for `localhost` with its own authority.
fn certify(folder: &Path) -> (TlsConfig, Certificate) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config =
        TlsConfig { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
    let certificate = made.cert.pem();
    std::fs::write(&config.certificate, &certificate).unwrap();
    std::fs::write(&config.key, made.signing_key.serialize_pem()).unwrap();
    (config, Certificate::from_pem(certificate.as_bytes()).unwrap())
}

/// The authority of the certificate in `folder`.
fn roots(folder: &Path) -> rustls::RootCertStore {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let certificate = folder.join("certificate.pem");
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    roots
}

fn trusting(certificate: Certificate) -> ClientBuilder {
    Client::builder().no_proxy().tls_certs_only([certificate])
}

/// A connection on which HTTP/2 is spoken, to a server whose certificate is in `folder`.
async fn connect_http2(server: &Server, folder: &Path) -> TlsStream<TcpStream> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots(folder))
    .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    connector.connect(name, connect(server).await).await.unwrap()
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
        (trusting(old.clone()), Version::HTTP_2),
        (trusting(old.clone()).http1_only(), Version::HTTP_11),
    ] {
        let response = ask(client).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert_eq!(response.json::<serde_json::Value>().await.unwrap()["answer"], "ok");
    }
    // A client that negotiates HTTP/2 and sends nothing times out, too.
    let mut silent = connect_http2(&server, folder.path()).await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it stays open");

    // A client that does not speak TLS, or sends nothing, times out.
    for sent in ["GET / HTTP/1.1\r\n\r\n", ""] {
        let mut stream = connect(&server).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (received, took) = until_closed(&mut stream).await;
        assert!(!received.contains("HTTP/1.1 200") && took < Duration::from_secs(10), "{received}");
    }

    let (config, new) = certify(folder.path());
    tls.reload(&config).unwrap();
    assert!(ask(trusting(old)).await.unwrap_err().is_connect());
    assert_eq!(ask(trusting(new.clone())).await.unwrap().status(), 200);
    // A broken file leaves the good one in use, and is named.
    std::fs::write(&config.key, "nothing").unwrap();
    let error = tls.reload(&config).unwrap_err().to_string();
    assert!(error.starts_with("cannot use `tls.key` = `"), "{error}");
    assert_eq!(ask(trusting(new)).await.unwrap().status(), 200);
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
    assert_eq!(outcome(&asked.output().await.unwrap()), (0, String::new()));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_files_that_a_process_may_open_bound_its_connections() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.toml");
    let text = format!(
        "[access]\nstore = {:?}\n[large_models.test]\nurl = {:?}\nmodel = \"m\"\napi_key_env = \"\"\n",
        folder.path().join("keys.db"),
        upstream.url()
    );
    std::fs::write(&config, text).unwrap();
    let serve = command(&["serve", "--listen", "127.0.0.1:0", "--config"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 160; exec \"$0\" \"$@\""]).arg(serve.get_program());
    limited.args(serve.get_args()).arg(&config);
    let mut server = Process::start(&mut limited);
    let address = server.url.rsplit('/').next().unwrap().to_owned();
    // Far more than the limit: idle connections are closed.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let client = Client::builder().no_proxy().build().unwrap();
    let body = json!({"question": "q"});
    let asked = client.post(format!("{}/v1/solve", server.url)).json(&body).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    drop(silent);
    assert_eq!(server.stop(), 0, "{}", server.log.text());
    let log = server.log.text();
    assert!(log.contains("`server.max_connections` = 4096") && log.contains("ulimit -n"), "{log}");
    assert!(!log.contains("cannot accept"), "{log}");
}
