//! The cost of one body of any kind: memory, computing time, and the delay of others. Memory is
//! always checked, relative to the body's length. Times depend on the machine and the build, so
//! they are only printed unless `PROMPT_R1_TEST_TIMES` is set. The goal is for bodies of 10 MiB and
//! a release build:
//! `PROMPT_R1_TEST_MIB=10 PROMPT_R1_TEST_TIMES=1 PROMPT_R1_TEST_SERVER=target/release/server cargo
//! test --test it cost:: -- --nocapture`

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::loopback::{Loopback, Script};
use crate::process::{self, Process};

mod bodies;
mod structures;

use bodies::Sent;

/// What a body may cost of memory: so many times its length for its texts, and for the values in it
/// the little that `server.bounds.json_bytes` lets in. Of 10 MiB, 100 MiB. Some does not depend on
/// the body.
const MAX_FOR_TEXTS: i64 = 6;
const MAX_FOR_VALUES_MIB: i64 = 40;
const SOME_MEMORY_MIB: i64 = 5;
const MAX_COMPUTING: Duration = Duration::from_secs(1);
const MAX_WAITED: Duration = Duration::from_millis(100);
/// No body takes this long with any build.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server with everything that a body can reach: a local policy and large model, an endpoint for
/// passing through, a policy behind it, and a key that is charged.
fn serve(folder: &Path, upstream: &Loopback) -> (Process, String) {
    let path = folder.join("server.toml");
    let endpoint = format!(
        "url = {:?}\nmodel = \"m\"\napi_key_env = \"\"\nretries = {{ max = 0 }}\n",
        upstream.url()
    );
    let text = format!(
        "default_large_model = \"test\"\n\
         [access]\nstore = {:?}\n\
         [episode]\nmax_turns = 4\n\
         [policy]\nengine = \"native\"\nmodel = \"models/policy\"\n\
         [canary]\nshare = 0.0\n[canary.policy]\nname = \"remote\"\n[canary.policy.remote]\nallow_unpriced = true\n{}\
         [local_models.atlas]\npath = \"models/large-model\"\n\
         [large_models.test]\nallow_unpriced = true\n{}\
         [large_models.test.prices]\ninput_per_million = 0.0001\noutput_per_million = 0.0001\n",
        folder.join("keys.db"),
        endpoint,
        endpoint,
    );
    std::fs::write(&path, text).unwrap();
    let path_text = path.to_str().unwrap();
    let create = ["keys", "create", "k", "--budget-per-day", "1000", "--config", path_text];
    let (status, output) = process::run(&create);
    assert_eq!(status, 0, "{output}");
    let key = output.split_whitespace().find(|word| word.starts_with("pr1-")).unwrap().to_owned();
    let mut command =
        process::command(&["serve", "--listen", "127.0.0.1:0", "--config", path_text]);
    if let Some(server) = std::env::var_os("PROMPT_R1_TEST_SERVER") {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = std::process::Command::new(server);
        command.args(arguments);
    }
    (Process::start(&mut command), key)
}

/// A memory figure of a process from the system, MiB.
fn memory(process: i32, name: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<i64>().unwrap() / 1024
}

/// The time for which a process has had a core.
fn computed(process: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

struct Cost {
    memory: i64,
    computing: Duration,
    waited: Duration,
}

/// Sends a request while `/livez` is polled, and measures.
async fn measured(server: &Process, key: &str, before: i64, sent: &Sent) -> (u16, String, Cost) {
    let client = Client::builder().no_proxy().build().unwrap();
    // Resets the peak of memory usage.
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let computing = computed(server.id());
    let is_over = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn({
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        let url = format!("{}/livez", server.url);
        async move {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
                longest = longest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            longest
        }
    });
    let mut request = client.post(format!("{}{}", server.url, sent.path)).bearer_auth(key);
    request = request.header("content-type", sent.kind).body(sent.body.clone());
    if sent.is_gzip {
        request = request.header("content-encoding", "gzip");
    }
    let answered = async {
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                (status, response.text().await.unwrap_or_default())
            }
            // The connection was closed before all was sent.
            Err(_) => (0, String::new()),
        }
    };
    let (status, text) = tokio::time::timeout(PATIENCE, answered).await.expect("it never ends");
    is_over.store(true, Ordering::Relaxed);
    let waited = others.await.unwrap();
    let memory = memory(server.id(), "VmHWM") - before;
    let computing = computed(server.id()) - computing;
    (status, text, Cost { memory, computing, waited })
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn references_to_an_item_cost_what_the_item_would() {
    const ITEM: usize = 200_000;
    let upstream = Loopback::answering(|_| Script::reply(&"x".repeat(ITEM))).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, key) = serve(folder.path(), &upstream);
    let sent = |input: String| {
        Sent::json(bodies::RESPONSES, format!("{{{}\"input\":{input}}}", bodies::DIRECT))
    };
    let (status, text, _) = measured(&server, &key, 0, &sent("\"q\"".to_owned())).await;
    assert_eq!(status, 200, "{text}");
    let response: serde_json::Value = serde_json::from_str(&text).unwrap();
    let item = response["output"].as_array().unwrap().last().unwrap();
    let reference = format!("{{\"type\":\"item_reference\",\"id\":{}}},", item["id"]);
    // The last of so many exceeds `server.bounds.choices_bytes`.
    let too_many = 10 * 1024 * 1024 / ITEM + 1;
    let most_memory = MAX_FOR_TEXTS * 10 + MAX_FOR_VALUES_MIB + SOME_MEMORY_MIB;
    for (count, expected) in [(2, 200), (too_many, 413), (5_000, 413)] {
        let question = "{\"role\":\"user\",\"content\":\"q\"}";
        let sent = sent(format!("[{}{question}]", reference.repeat(count)));
        let before = memory(server.id(), "VmRSS");
        let (status, text, cost) = measured(&server, &key, before, &sent).await;
        assert_eq!(status, expected, "{count}: {}", text.chars().take(200).collect::<String>());
        assert!(expected == 200 || text.contains("`server.bounds.choices_bytes`"), "{text}");
        assert!(cost.memory <= most_memory, "{count}: {} MiB", cost.memory);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the figures are worth a look")]
async fn a_body_costs_what_it_may_whatever_is_in_it() {
    let upstream = Loopback::answering(|request| Script::reply(bodies::reply_to(request))).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, key) = serve(folder.path(), &upstream);
    let warm = Sent::small();
    assert_eq!(measured(&server, &key, 0, &warm).await.0, 200);
    let is_timed = std::env::var_os("PROMPT_R1_TEST_TIMES").is_some();
    let only = std::env::var("PROMPT_R1_TEST_BODY").unwrap_or_default();
    let most_memory =
        MAX_FOR_TEXTS * bodies::mebibytes() as i64 + MAX_FOR_VALUES_MIB + SOME_MEMORY_MIB;
    let mut wrong = Vec::new();
    let bodies = bodies::all().into_iter().chain(structures::all());
    for (name, make) in bodies.filter(|(name, _)| name.contains(&only)) {
        let sent = make();
        // Memory that the allocator keeps from earlier bodies does not count.
        let before = memory(server.id(), "VmRSS");
        let (status, text, cost) = measured(&server, &key, before, &sent).await;
        let Cost { memory, computing, waited } = cost;
        let head: String = text.chars().take(120).collect();
        println!("{name:<44} {status} {memory:>5} MiB {computing:>7.2?} {waited:>9.1?} {head}");
        if memory > most_memory {
            wrong.push(format!("{name}: {memory} MiB"));
        }
        if is_timed && (computing > MAX_COMPUTING || waited > MAX_WAITED) {
            wrong.push(format!("{name}: {computing:?} of a core, others waited {waited:?}"));
        }
        // The endpoint's reply to requests for JSON does not match the schema.
        if status == 500 || status > 502 || status == 0 {
            wrong.push(format!("{name}: {status} {head}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
