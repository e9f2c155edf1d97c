#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// What happens to the upstream's connections, by number.
#[derive(Debug, PartialEq)]
enum Event {
    /// The head and body of a request.
    Asked(usize, String),
    Closed(usize),
}

/// An upstream that sends the next of `answers` to each request, and closes after an empty one.
async fn upstream(
    answers: &'static [&'static str],
) -> (SocketAddr, mpsc::UnboundedReceiver<Event>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, seen) = mpsc::unbounded_channel();
    let answers = Arc::new(Mutex::new(answers.iter()));
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (events, answers) = (events.clone(), Arc::clone(&answers));
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut request).await {
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    events.send(Event::Asked(number, text)).unwrap();
                    let answer = *answers.lock().unwrap().next().unwrap();
                    stream.write_all(answer.trim_end_matches('!').as_bytes()).await.unwrap();
                    if answer.ends_with('!') {
                        break;
                    }
                }
                drop(stream);
                let _ = events.send(Event::Closed(number));
            });
        }
    });
    (address, seen)
}

fn direct(address: SocketAddr) -> Direct {
    let to = format!("http://{address}/v1").parse().unwrap();
    Direct::new(&to, true, Duration::from_secs(5), 8).unwrap()
}

fn request(address: SocketAddr) -> Request {
    let url = format!("http://{address}/v1/x?y=1");
    http::Request::post(url).body(Bytes::from("hello")).unwrap()
}

async fn ask(direct: &Direct, address: SocketAddr) -> Result<reqwest::Response, DirectError> {
    direct.send(request(address)).await.map(reqwest::Response::from)
}

async fn whole(direct: &Direct, address: SocketAddr) -> String {
    ask(direct, address).await.unwrap().text().await.unwrap()
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab";
const CHUNKS: &str =
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab!";
const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab";

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let (address, mut seen) = upstream(&[LENGTH, CHUNKS, EMPTY, LENGTH]).await;
    let direct = direct(address);
    for body in ["ab", "ab", "", "ab"] {
        assert_eq!(whole(&direct, address).await, body);
        let Some(Event::Asked(0, request)) = seen.recv().await else { panic!("another one") };
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let (line, headers) = head.split_once("\r\n").unwrap();
        assert_eq!((line, body), ("POST /v1/x?y=1 HTTP/1.1", "hello"));
        let mut headers: Vec<_> = headers.lines().collect();
        headers.sort_unstable();
        let host = format!("host: {address}");
        let agent = format!("user-agent: {}", USER_AGENT);
        assert_eq!(headers, ["accept: */*", "content-length: 5", &host, &agent]);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_is_replaced() {
    // Closed with notice, and without.
    for closing in [LAST, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab!"] {
        let answers = Vec::leak(vec![closing, LENGTH]);
        let (address, mut seen) = upstream(answers).await;
        let direct = direct(address);
        assert_eq!(whole(&direct, address).await, "ab");
        assert!(matches!(seen.recv().await, Some(Event::Asked(0, _))));
        assert_eq!(seen.recv().await, Some(Event::Closed(0)));
        assert_eq!(whole(&direct, address).await, "ab");
        assert!(matches!(seen.recv().await, Some(Event::Asked(1, _))));
    }
}

#[tokio::test]
async fn who_leaves_closes_the_connection() {
    let (address, mut seen) = upstream(&["", PART]).await;
    let direct = direct(address);
    // Before the response, and in the middle of its body.
    let asking = ask(&direct, address);
    assert!(tokio::time::timeout(Duration::from_millis(200), asking).await.is_err());
    assert!(matches!(seen.recv().await, Some(Event::Asked(0, _))));
    assert_eq!(seen.recv().await, Some(Event::Closed(0)));
    let mut response = ask(&direct, address).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "ab");
    assert!(matches!(seen.recv().await, Some(Event::Asked(1, _))));
    drop(response);
    assert_eq!(seen.recv().await, Some(Event::Closed(1)));
}

#[tokio::test]
async fn what_breaks_off_is_an_error() {
    let (address, _seen) =
        upstream(&["!", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab!"]).await;
    let direct = direct(address);
    let error = ask(&direct, address).await.err().unwrap();
    assert!(matches!(error, DirectError::Failed(_)), "{error}");
    let response = ask(&direct, address).await.unwrap();
    assert!(response.bytes().await.is_err());
    assert!(direct.idle.links().is_empty());
}

#[tokio::test]
async fn no_more_connections_wait_than_may() {
    let (address, _seen) = upstream(&[LENGTH; 12]).await;
    let direct = direct(address);
    let requests = (0..12).map(|_| ask(&direct, address));
    let responses = futures::future::try_join_all(requests).await.unwrap();
    for response in responses {
        assert_eq!(response.text().await.unwrap(), "ab");
    }
    assert_eq!(direct.idle.links().len(), 8);
}

#[test]
fn only_plain_http_is_direct() {
    for (url, is_direct) in
        [("http://127.0.0.1:9/v1", true), ("https://127.0.0.1:9/v1", false), ("/a", false)]
    {
        let url = url.parse().unwrap();
        let direct = Direct::new(&url, true, Duration::from_secs(1), 1);
        assert_eq!(direct.is_some(), is_direct, "{url}");
    }
}
