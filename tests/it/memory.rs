//! The server's memory is bounded by its configuration, however many requests it gets.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;

use crate::loopback::Loopback;
use crate::process::{Process, configuration};
use crate::server::client;

/// Prefixes that the policy's engine may cache, MiB. Each of the bundled policy takes one.
const KEPT: usize = 4;
const QUESTIONS: usize = 48;

/// A figure of a process from the system.
fn status(process: i32, name: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let lines: HashMap<_, _> = status.lines().filter_map(|line| line.split_once(':')).collect();
    lines[name].trim().trim_end_matches(" kB").parse().unwrap()
}

fn config(folder: &Path, upstream: &Loopback) -> std::path::PathBuf {
    let top = format!(
        "default_large_model = \"test\"\n[policy]\nengine = \"mistralrs\"\nmodel = \"models/policy\"\n\
         mistralrs = {{ prefix_cache_mib = {KEPT} }}"
    );
    configuration(folder, upstream, &top, "")
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn kept_prefixes_take_what_they_may_and_leave_no_threads_behind() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::serve(&config(folder.path(), &upstream));
    let client = client();
    let ask = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            // Each is tokenised differently, and so begins another prefix.
            let question = format!("What is {number} ?");
            let question = json!({"question": question, "max_turns": 1, "seed": 1});
            let asked = client.post(format!("{}/v1/solve", server.url)).json(&question);
            let response = asked.send().await.unwrap();
            assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        }
    };
    ask(0..QUESTIONS).await;
    let (threads, memory) = (status(server.id(), "Threads"), status(server.id(), "VmRSS"));
    ask(QUESTIONS..3 * QUESTIONS).await;
    let now = (status(server.id(), "Threads"), status(server.id(), "VmRSS"));
    // The runtime may have started some of its own.
    assert!(now.0 - threads < 8, "{threads} threads, then {}", now.0);
    assert!((now.1 - memory) / 1024 < 16, "{memory} kB, then {}", now.1);
    assert_eq!(server.stop(), 0, "{}", server.log.text());
    assert!(!server.log.text().contains("ERROR"), "{}", server.log.text());
}
