//! Clients of HTTP/2 that do not let the server send, frame by frame: no client does that by
//! itself.

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_OF_STREAM: u8 = 1;
const END_OF_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags][..], &stream.to_be_bytes()[..]].concat();
    [&head[..], payload].concat()
}

/// A header as a literal that is not indexed; both are shorter than 127 bytes.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A question in the first stream, to whose answer no window is opened.
fn question() -> Vec<u8> {
    let no_window = [&4_u16.to_be_bytes()[..], &0_u32.to_be_bytes()[..]].concat();
    let headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/v1/solve"),
        (":authority", "localhost"),
        ("content-type", "application/json"),
    ];
    let headers = headers.map(|(name, value)| header(name, value)).concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &no_window),
        frame(HEADERS, END_OF_HEADERS, 1, &headers),
        frame(DATA, END_OF_STREAM, 1, br#"{"question": "a"}"#),
    ]
    .concat()
}

/// Answers pings and settings until the server closes the connection; the kinds of its frames.
async fn until_closed(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Ok((kind, flags, payload)) = next_frame(stream).await {
        kinds.push(kind);
        let answer = match kind {
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            _ => continue,
        };
        // Fails where the connection is closed.
        let _ = stream.write_all(&answer).await;
    }
    kinds
}

/// Kind, flags and payload.
async fn next_frame(stream: &mut TlsStream<TcpStream>) -> std::io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_cut_off_though_it_answers_pings() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, certificate) = certify(folder.path());
    let mut setup = Setup::relay();
    setup.server = hurried();
    setup.tls = Some(Arc::new(Tls::load(&config).unwrap()));
    let server = setup.start(&upstream).await;
    let mut stalled = connect_http2(&server, folder.path()).await;
    stalled.write_all(&question()).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), until_closed(&mut stalled)).await;
    let kinds = closed.expect("it stays open");
    assert!(kinds.contains(&HEADERS) && !kinds.contains(&DATA), "{kinds:?}");

    // One that waits for the large model for longer than that is not.
    upstream.then(Script::reply("late").after(Duration::from_millis(2_500)));
    let url = server.url.replace("http://127.0.0.1", "https://localhost") + "/v1/solve";
    let client = trusting(certificate).build().unwrap();
    let response = client.post(url).json(&json!({"question": "a"})).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    assert_eq!(response.json::<serde_json::Value>().await.unwrap()["answer"], "late");
}
