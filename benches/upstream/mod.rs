//! A large model's endpoint on this machine, for what is measured against one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Answers every request with what `reply` makes of its body, on threads that end with their
/// connections.
pub fn upstream<F>(reply: F) -> io::Result<SocketAddr>
where
    F: Fn(Vec<u8>) -> String + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reply = Arc::new(reply);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reply = Arc::clone(&reply);
            thread::spawn(move || answer(stream, &*reply));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, reply: &dyn Fn(Vec<u8>) -> String) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while requests.read_line(&mut line)? > 0 {
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().map_err(io::Error::other)?;
            }
        } else if line == "\r\n" {
            let mut body = vec![0; length];
            requests.read_exact(&mut body)?;
            let body = reply(body);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
            stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}
