//! A large model on this machine that responds as a test asks, over plain TCP: real servers
//! cannot be made to misbehave enough.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub mod net;
mod script;

use crate::eventually::LIMIT;
use script::{Before, Body, Ending, stream_events};
pub use script::{Cut, Gate, Script, USAGE, chunk, completion};

/// An endpoint. Stops when dropped.
pub struct Loopback {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    accepting: Vec<AbortHandle>,
}

struct Shared {
    scripts: Mutex<VecDeque<Script>>,
    /// The response when the queue is empty.
    otherwise: Box<dyn Fn(&Recorded) -> Script + Send + Sync>,
    requests: Mutex<Vec<Recorded>>,
    connections: AtomicUsize,
    disconnects: AtomicUsize,
    changed: Notify,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Recorded {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The text of the last message.
    pub fn prompt(&self) -> String {
        let messages = self.json()["messages"].as_array().cloned().unwrap_or_default();
        messages.last().and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned()
    }

    fn wants_stream(&self) -> bool {
        self.json()["stream"] == json!(true)
    }
}

impl Loopback {
    /// An endpoint that replies `ok` once its queue is empty.
    pub async fn start() -> Self {
        Self::answering(|_| Script::reply("ok")).await
    }

    /// An endpoint that responds with the function once its queue is empty.
    pub async fn answering(
        otherwise: impl Fn(&Recorded) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            otherwise: Box::new(otherwise),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            disconnects: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        let mut accepting = vec![accepting.abort_handle()];
        let front = net::front(address).await;
        let address = front.as_ref().map_or(address, |(address, _)| *address);
        accepting.extend(front.map(|(_, accepting)| accepting));
        Self { address, shared, accepting }
    }

    /// Adds to the queue.
    pub fn then(&self, script: Script) -> &Self {
        self.shared.scripts.lock().unwrap().push_back(script);
        self
    }

    /// The URL for a configuration.
    pub fn url(&self) -> String {
        net::Over::now().url(self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("no request arrived")
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Clients that left before their response was complete.
    pub fn disconnects(&self) -> usize {
        self.shared.disconnects.load(Ordering::SeqCst)
    }

    /// Returns when this many clients have left.
    pub async fn wait_for_disconnects(&self, count: usize) {
        self.wait_until("clients left", count, || self.disconnects()).await;
    }

    /// Returns when this many requests have arrived.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait_until("requests", count, || self.shared.requests.lock().unwrap().len()).await;
    }

    async fn wait_until(&self, what: &str, count: usize, now: impl Fn() -> usize) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if now() >= count {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        assert!(waited.is_ok(), "waited for {count} {what}, saw {}", now());
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
    }
}

/// Serves one connection until it ends.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let mut unread = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut unread).await {
        let queued = shared.scripts.lock().unwrap().pop_front();
        let script = queued.unwrap_or_else(|| (shared.otherwise)(&request));
        let wants_stream = request.wants_stream();
        shared.requests.lock().unwrap().push(request);
        shared.changed.notify_waiters();
        match respond(&mut stream, script, wants_stream).await {
            Then::NextRequest => {}
            Then::Close => return,
            Then::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Then::ClientLeft => {
                shared.disconnects.fetch_add(1, Ordering::SeqCst);
                shared.changed.notify_waiters();
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Recorded> {
    let end = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(unread.drain(..end + 4).collect()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ').map(str::to_owned);
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse::<usize>().unwrap());
    while unread.len() < length {
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
    let body = unread.drain(..length).collect();
    Some(Recorded { method: first.next()?, path: first.next()?, headers, body })
}

/// What happens to the connection after a response.
enum Then {
    NextRequest,
    Close,
    Reset,
    ClientLeft,
}

async fn respond(stream: &mut TcpStream, script: Script, wants_stream: bool) -> Then {
    for before in &script.before {
        let wait = async {
            match before {
                Before::Wait(wait) => tokio::time::sleep(*wait).await,
                Before::Gate(gate) => gate.0.notified().await,
            }
        };
        let wait = std::pin::pin!(wait);
        tokio::select! {
            () = wait => {}
            () = left(stream) => return Then::ClientLeft,
        }
    }
    let sent = send(stream, &script, wants_stream).await;
    match (sent, script.ending) {
        (Err(_), _) => Then::ClientLeft,
        (Ok(()), Ending::Whole) => Then::NextRequest,
        (Ok(()), Ending::Cut(_, Cut::Close)) => Then::Close,
        (Ok(()), Ending::Cut(_, Cut::Reset)) => Then::Reset,
        (Ok(()), Ending::Cut(_, Cut::Stall)) => {
            left(stream).await;
            Then::ClientLeft
        }
    }
}

/// Returns when the client closes the connection.
async fn left(stream: &TcpStream) {
    let mut byte = [0];
    // A client that sends its next request early never gets here: it waits for the response.
    let _ = stream.peek(&mut byte).await;
}

async fn send(stream: &mut TcpStream, script: &Script, wants_stream: bool) -> std::io::Result<()> {
    if script.status == 0 {
        return Ok(());
    }
    let mut headers = script.headers.clone();
    let (pieces, chunked) = match &script.body {
        Body::Completion(message, reason) if wants_stream => {
            headers.push(("content-type".into(), "text/event-stream".into()));
            (stream_events(message, reason), true)
        }
        Body::Completion(message, reason) => {
            headers.push(("content-type".into(), "application/json".into()));
            (vec![completion(message, reason).to_string().into_bytes()], false)
        }
        Body::Bytes(bytes) => (vec![bytes.clone()], false),
        Body::Chunks(chunks) => (chunks.clone(), true),
        Body::Endless(bytes) => (vec![bytes.clone()], true),
    };
    if chunked {
        headers.push(("transfer-encoding".into(), "chunked".into()));
    } else {
        let length = pieces.iter().map(Vec::len).sum::<usize>();
        headers.push(("content-length".into(), length.to_string()));
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", script.status);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    let mut room = match script.ending {
        Ending::Whole => usize::MAX,
        Ending::Cut(after, _) => after,
    };
    loop {
        for piece in &pieces {
            let piece = &piece[..piece.len().min(room)];
            let step = if script.drip.is_some() { 1 } else { piece.len().max(1) };
            for part in piece.chunks(step) {
                let framed = if chunked {
                    [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
                } else {
                    part.to_vec()
                };
                stream.write_all(&framed).await?;
                if let Some(pause) = script.drip.filter(|pause| !pause.is_zero()) {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = left(stream) => return Err(std::io::ErrorKind::BrokenPipe.into()),
                    }
                }
            }
            room -= piece.len();
            if room == 0 {
                return Ok(());
            }
        }
        if !matches!(script.body, Body::Endless(_)) {
            break;
        }
    }
    if chunked && matches!(script.ending, Ending::Whole) {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}
