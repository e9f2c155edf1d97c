//! A large model whose name resolves slowly. The server uses a DNS server of this test, which takes
//! a mount namespace and port 53, and so root.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::loopback::Loopback;
use crate::process::Process;
use crate::server::client;

const NAME_SERVER: &str = "127.83.77.1";

/// Resolves every name to this machine, and names with `slow` in them after a delay.
async fn serve_names() {
    let socket = UdpSocket::bind((NAME_SERVER, 53)).await.expect("the port 53 needs root");
    let socket = std::sync::Arc::new(socket);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let (reply, is_slow) = reply(&query[..length]);
            let socket = std::sync::Arc::clone(&socket);
            tokio::spawn(async move {
                if is_slow {
                    tokio::time::sleep(Duration::from_secs(4)).await;
                }
                socket.send_to(&reply, from).await.unwrap();
            });
        }
    });
}

/// The response to a query (RFC 1035, section 4), and whether it is for a slow name.
fn reply(query: &[u8]) -> (Vec<u8>, bool) {
    let name = &query[12..];
    let end = 12 + name.iter().position(|&byte| byte == 0).unwrap() + 1;
    let is_slow = name.windows(4).any(|part| part == b"slow");
    let is_address = query[end..end + 2] == [0, 1];
    // A positive response to the one question, which it repeats.
    let mut reply = [&query[..2], &[0x81, 0x80, 0, 1, 0, is_address.into(), 0, 0, 0, 0]].concat();
    reply.extend_from_slice(&query[12..end + 4]);
    if is_address {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    (reply, is_slow)
}

fn serve(folder: &std::path::Path, upstream: &Loopback) -> Process {
    let (names, config) = (folder.join("resolv.conf"), folder.join("server.toml"));
    std::fs::write(&names, format!("nameserver {NAME_SERVER}\noptions timeout:9 attempts:1\n"))
        .unwrap();
    let endpoint = |name: &str| {
        let url = upstream.url().replace("127.0.0.1", &format!("{name}.test"));
        format!(
            "[large_models.{name}]\nurl = {url:?}\nmodel = {name:?}\napi_key_env = \"\"\n\
             breaker = {{ failures = 0 }}\nretries = {{ max = 1, base_ms = 1 }}\n\
             timeouts = {{ connect_ms = 500 }}\n"
        )
    };
    let text = format!(
        "default_large_model = \"quick\"\n[access]\nstore = {:?}\n{}{}",
        folder.join("keys.db"),
        endpoint("quick"),
        endpoint("slow")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("unshare");
    let run = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command.args(["--mount", "sh", "-c", run]).arg(names).arg(env!("CARGO_BIN_EXE_server"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config).env("NO_PROXY", "*");
    Process::start(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a name server of its own"]
async fn slow_names_are_waited_for_as_long_as_connections_and_hold_up_nothing_else() {
    serve_names().await;
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = serve(folder.path(), &upstream);
    let client = client();
    let ask = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "a"}]});
        let sent = client.post(format!("{}/v1/chat/completions", server.url)).json(&body).send();
        async move {
            let begun = Instant::now();
            let response = sent.await.unwrap();
            let status = response.status().as_u16();
            (status, response.json::<Value>().await.unwrap(), begun.elapsed())
        }
    };
    assert_eq!(ask("quick").await.0, 200);
    let slow = futures::future::join_all((0..24).map(|_| ask("slow")));
    let quick = async {
        for _ in 0..20 {
            let (status, reply, took) = ask("quick").await;
            assert_eq!(status, 200, "{reply}");
            assert!(took < Duration::from_secs(2), "{took:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (slow, ()) = futures::future::join(slow, quick).await;
    for (status, error, took) in slow {
        assert_eq!((status, &error["error"]["code"]), (504, &json!("large_model_timeout")));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("connection") && message.contains("500 ms"), "{message}");
        // Two attempts.
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    }
    assert_eq!(server.stop(), 0, "{}", server.log.text());
}
