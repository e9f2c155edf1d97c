//! `server eval` as a user runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use prompt_r1::eval::report::Report;
use prompt_r1::run_lock::RunLock;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::loopback::{Gate, Loopback, Script};

mod models;

/// A folder with questions and a configuration.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(questions: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("questions.jsonl"), questions).unwrap();
        let config = config.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(folder.path().join("eval.toml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Child {
        self.start_as(std::process::Command::new(env!("CARGO_BIN_EXE_server")))
    }

    fn start_as(&self, server: std::process::Command) -> Child {
        Command::from(server)
            .args(["eval", "--config"])
            .arg(self.path("eval.toml"))
            .env_remove("OPENAI_API_KEY")
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn run(&self) -> Output {
        self.start().wait_with_output().await.unwrap()
    }

    async fn report(&self) -> Report {
        let output = self.run().await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = std::fs::read(self.path("out/report.json")).unwrap();
        let page = std::fs::read_to_string(self.path("out/report.html")).unwrap();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            std::fs::read_to_string(self.path("out/report.md")).unwrap()
        );
        serde_json::from_slice(&report).unwrap()
    }
}

fn questions(count: usize) -> String {
    (0..count)
        .map(|n| json!({"question": format!("What is {n}?"), "answer": n.to_string()}).to_string())
        .map(|line| line + "\n")
        .collect()
}

fn config(url: &str, extra: &str) -> String {
    format!(
        "schema_version = 1\noutput = \"FOLDER/out\"\n{extra}\n\
         [[data]]\nkind = \"file\"\npath = \"FOLDER/questions.jsonl\"\nsource = \"own\"\n\
         [metrics]\nby_source = {{ own = \"exact\" }}\n\
         [large_models.big]\nurl = \"{url}\"\nmodel = \"m\"\n\
         prices = {{ input_per_million = 1000.0, output_per_million = 2000.0 }}\n\
         breaker = {{ failures = 0 }}\n"
    )
}

/// The number in "What is 7?".
fn asked(prompt: &str) -> usize {
    let digits: String = prompt.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[tokio::test]
async fn arms_are_counted_and_failures_are_distinguished() {
    // Alone the model is right about even numbers; step by step it is always right; every third
    // question makes it fail.
    let large_model = Loopback::answering(|request| {
        let prompt = request.prompt();
        let n = asked(&prompt);
        match (n % 3, prompt.contains("step by step")) {
            (0, false) => Script::error(400, "no such thing"),
            (_, true) => Script::reply(&format!("Well.\n**Answer:** {n}")),
            (_, false) if n.is_multiple_of(2) => Script::reply(&format!(" {n}. ")),
            _ => Script::reply("I do not know"),
        }
    })
    .await;
    let extra = "arms = [\"direct\", \"cot\", \"vote=self-consistency:3\"]";
    let bench = Bench::new(&questions(30), &config(&large_model.url(), extra));
    let report = bench.report().await;
    let arm = |index: usize| {
        let arm = &report.arms[index];
        (arm.answered, arm.failed, arm.score.unwrap().mean, arm.calls)
    };
    assert_eq!(arm(0), (20, 10, 0.5, 1.0));
    assert_eq!(arm(1), (30, 0, 1.0, 1.0));
    assert_eq!(arm(2), (30, 0, 1.0, 3.0));
    // 11 tokens read and 7 written.
    assert!((report.arms[1].cost - (11.0 * 1000.0 + 7.0 * 2000.0) / 1e6).abs() < 1e-12);
    assert!((report.arms[2].cost - 3.0 * report.arms[1].cost).abs() < 1e-12);
    assert_eq!(report.comparisons[0].n, 20);
    assert_eq!(report.comparisons[0].discordant, Some((0, 10)));
    assert_eq!(report.failures.len(), 1);
    assert_eq!((report.failures[0].arm.as_str(), report.failures[0].count), ("direct", 10));
    assert!(report.failures[0].error.contains("no such thing"), "{:?}", report.failures);

    // A second run: finished rows are not repeated, failed ones are.
    let before = large_model.requests().len();
    assert_eq!(bench.report().await, report);
    let again: Vec<usize> =
        large_model.requests()[before..].iter().map(|request| asked(&request.prompt())).collect();
    assert_eq!(again.len(), 10);
    assert!(again.iter().all(|n| n % 3 == 0), "{again:?}");
}

#[tokio::test]
async fn a_killed_run_goes_on_and_pays_nothing_twice() {
    let gate = Gate::default();
    let large_model =
        Loopback::answering(|request| Script::reply(&asked(&request.prompt()).to_string())).await;
    for n in 0..5 {
        large_model.then(Script::reply(&n.to_string()));
    }
    large_model.then(Script::reply("5").held(&gate));
    let extra = "arms = [\"direct\"]\nmax_in_flight = 1";
    let bench = Bench::new(&questions(20), &config(&large_model.url(), extra));
    let mut child = bench.start();
    large_model.wait_for_requests(6).await;
    child.kill().await.unwrap();
    let report = bench.report().await;
    assert_eq!(report.arms[0].score.unwrap().mean, 1.0);
    let mut times: BTreeMap<usize, usize> = BTreeMap::new();
    for request in large_model.requests() {
        *times.entry(asked(&request.prompt())).or_default() += 1;
    }
    // The sixth was never answered.
    assert!(times.iter().all(|(n, times)| *times == if *n == 5 { 2 } else { 1 }), "{times:?}");
    assert_eq!(times.len(), 20);
}

#[tokio::test]
async fn an_endpoint_that_refuses_many_calls_fails_no_row() {
    let count = AtomicUsize::new(0);
    let large_model =
        Loopback::answering(move |request| match count.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Script::reply(&asked(&request.prompt()).to_string()),
            _ => Script::error(429, "too many").header("retry-after-ms", "1"),
        })
        .await;
    let extra = "arms = [\"direct\"]";
    let bench = Bench::new(&questions(20), &config(&large_model.url(), extra));
    let arm = bench.report().await.arms.remove(0);
    assert_eq!((arm.answered, arm.failed, arm.score.unwrap().mean), (20, 0, 1.0));
}

#[tokio::test]
async fn two_runs_do_not_share_a_folder() {
    let large_model = Loopback::answering(|_| Script::reply("1")).await;
    let bench = Bench::new(&questions(2), &config(&large_model.url(), "arms = [\"direct\"]"));
    std::fs::create_dir_all(bench.path("out")).unwrap();
    let lock = RunLock::take(&bench.path("out")).unwrap().unwrap();
    let output = bench.run().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another evaluation uses"), "{said}");
    drop(lock);
    bench.report().await;
}

#[tokio::test]
async fn another_prompt_or_seed_is_another_row_and_a_repeated_request_is_not_paid_twice() {
    let large_model = Loopback::answering(|_| Script::reply("1")).await;
    let configure = async |extra: &str, folder: &Path| {
        let text =
            config(&large_model.url(), extra).replace("FOLDER", &folder.display().to_string());
        std::fs::write(folder.join("eval.toml"), text).unwrap();
    };
    let extra = "brief = false\narms = [\"direct\"]";
    let bench = Bench::new(&questions(4), &config(&large_model.url(), extra));
    bench.report().await;
    assert_eq!(large_model.requests().len(), 4);
    configure("brief = false\narms = [\"direct\"]\nseed = 1", bench.folder.path()).await;
    bench.report().await;
    assert_eq!(large_model.requests().len(), 8);
    // The same prompt under another name: the replies are cached, but charged.
    std::fs::write(bench.path("same.j2"), "{{ question }}").unwrap();
    let extra = "brief = false\narms = [\"direct\", \"template:FOLDER/same.j2\"]\nseed = 1";
    configure(extra, bench.folder.path()).await;
    let report = bench.report().await;
    assert_eq!(large_model.requests().len(), 8);
    assert_eq!(report.arms[0].cost, report.arms[1].cost);
}

#[tokio::test]
async fn a_script_that_was_changed_is_run_again() {
    let large_model = Loopback::answering(|_| Script::reply("1")).await;
    let extra = "arms = [\"s=script:sh FOLDER/policy.sh\"]";
    let bench = Bench::new(&questions(2), &config(&large_model.url(), extra));
    for (answer, score, rows) in [("0", 0.5, 2), ("7", 0.0, 4), ("7", 0.0, 4)] {
        let script = format!("echo '<think>so</think><answer>{answer}</answer>'\n");
        std::fs::write(bench.path("policy.sh"), script).unwrap();
        let report = bench.report().await;
        assert_eq!(report.arms[0].score.unwrap().mean, score, "{answer}");
        let written = std::fs::read_to_string(bench.path("out/rows.jsonl")).unwrap();
        assert_eq!(written.lines().count(), rows, "{answer}");
    }
    assert_eq!(large_model.requests().len(), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hangup_ends_an_evaluation_and_its_programs_unless_it_is_ignored() {
    use nix::sys::signal::{Signal, kill};

    use crate::eventually::eventually;
    use crate::process::with_hangup;

    let large_model = Loopback::answering(|_| Script::reply("1")).await;
    let extra = "arms = [\"s=script:sh FOLDER/policy.sh\"]";
    for is_ignored in [false, true] {
        let bench = Bench::new(&questions(1), &config(&large_model.url(), extra));
        let script = "echo $$ > FOLDER/id\n\
            while [ ! -e FOLDER/go ]; do sleep 0.02; done\n\
            echo '<think>so</think><answer>0</answer>'\n";
        let script = script.replace("FOLDER", &bench.folder.path().display().to_string());
        std::fs::write(bench.path("policy.sh"), script).unwrap();
        let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        with_hangup(&mut server, is_ignored);
        let child = bench.start_as(server);
        let id = || std::fs::read_to_string(bench.path("id")).ok()?.trim().parse::<i32>().ok();
        eventually("the start of the script", async || id().is_some()).await;
        let id = id().unwrap();
        kill(nix::unistd::Pid::from_raw(child.id().unwrap() as i32), Signal::SIGHUP).unwrap();
        if is_ignored {
            std::fs::write(bench.path("go"), "").unwrap();
        }
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), is_ignored, "{said}");
        assert_eq!(said.contains("stopped after 0 of 1 rows"), !is_ignored, "{said}");
        // A zombie still has a folder, and a state that says so.
        let lives = || {
            std::fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        eventually("the end of the script", async || !lives()).await;
    }
}

#[tokio::test]
async fn a_judge_whose_reply_has_no_score_is_asked_again_by_the_next_run() {
    let judgements = AtomicUsize::new(0);
    let large_model = Loopback::answering(move |request| {
        if !request.prompt().starts_with("Grade an answer") {
            return Script::reply("1");
        }
        match judgements.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Script::reply("It is right."),
            _ => Script::reply("It is right.\n**Score: 1/1**"),
        }
    })
    .await;
    let text = config(&large_model.url(), "arms = [\"direct\"]");
    let bench = Bench::new(&questions(2), &text.replace("own = \"exact\"", "own = \"judge\""));
    let report = bench.report().await;
    assert_eq!((report.arms[0].answered, report.arms[0].unscored), (2, 2));
    assert_eq!(large_model.requests().len(), 4);
    // The answers are kept; the judgements are made again, and then kept too.
    for _ in 0..2 {
        let report = bench.report().await;
        assert_eq!((report.arms[0].unscored, report.arms[0].score.unwrap().mean), (0, 1.0));
        assert_eq!(large_model.requests().len(), 6);
    }
}

#[tokio::test]
async fn stored_rows_and_replies_are_charged_by_the_prices_of_now() {
    let large_model = Loopback::answering(|_| Script::reply("1")).await;
    let text = config(&large_model.url(), "arms = [\"direct\"]");
    let unpriced: String =
        text.lines().filter(|line| !line.starts_with("prices")).collect::<Vec<_>>().join("\n");
    let bench = Bench::new(&questions(4), &unpriced);
    assert_eq!(bench.report().await.arms[0].cost, 0.0);
    let configure = |text: &str| {
        let text = text.replace("FOLDER", &bench.folder.path().display().to_string());
        std::fs::write(bench.path("eval.toml"), text).unwrap();
    };
    configure(&text);
    // 11 tokens read and 7 written.
    let cost = (11.0 * 1000.0 + 7.0 * 2000.0) / 1e6;
    let report = bench.report().await;
    assert!((report.arms[0].cost - cost).abs() < 1e-12, "{}", report.arms[0].cost);
    std::fs::remove_file(bench.path("out/rows.jsonl")).unwrap();
    let untimed = |mut report: Report| {
        report.arms.iter_mut().for_each(|arm| arm.median_seconds = None);
        report
    };
    assert_eq!(untimed(bench.report().await), untimed(report));
    configure(&text.replace("1000.0", "2000.0").replace("= 2000.0 }", "= 4000.0 }"));
    let dearer = bench.report().await;
    assert!((dearer.arms[0].cost - 2.0 * cost).abs() < 1e-12, "{}", dearer.arms[0].cost);
    assert_eq!(large_model.requests().len(), 4);
}

#[tokio::test]
async fn replies_that_were_cut_off_are_counted_and_warned_of() {
    // Step by step, the model does not get to its answer to every third question.
    let large_model = Loopback::answering(|request| {
        let prompt = request.prompt();
        let n = asked(&prompt);
        if prompt.contains("step by step") && n.is_multiple_of(3) {
            let message = json!({"role": "assistant", "content": "Let us see"});
            return Script::message(message, "length");
        }
        Script::reply(&n.to_string())
    })
    .await;
    let text = config(&large_model.url(), "arms = [\"direct\", \"vote=self-consistency:2\"]");
    let bench = Bench::new(&questions(9), &text);
    let output = bench.run().await;
    let said = String::from_utf8_lossy(&output.stderr);
    let cut_off = "`vote`: 6 replies of the large model cut off in 3 of 9 answers";
    assert!(output.status.success() && said.contains(cut_off), "{said}");
    let report = bench.report().await;
    let [direct, vote] = &report.arms[..] else { unreachable!() };
    assert_eq!((direct.cut_replies, direct.cut_answers), (0, 0));
    assert_eq!((vote.cut_replies, vote.cut_answers, vote.cut_turns), (6, 3, 0));
    assert!(direct.median_seconds.unwrap() > 0.0 && vote.median_seconds.unwrap() > 0.0);
    assert_eq!(report.warnings.len(), 1);
    let warning = &report.warnings[0];
    let setting = format!("raise `params.max_tokens` of the large model `{}`", report.large_model);
    assert!(warning.starts_with(cut_off) && warning.contains(&setting), "{warning}");
    assert_eq!(large_model.requests().len(), 27);

    // Rows of an earlier version are kept, and said not to tell.
    let rows = bench.path("out/rows.jsonl");
    let without = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        let answer = row["outcome"]["answered"].as_object_mut().unwrap();
        assert!(answer.remove("cut_off").is_some() && answer.remove("micros").is_some());
        row.to_string() + "\n"
    };
    let earlier: String = std::fs::read_to_string(&rows).unwrap().lines().map(without).collect();
    std::fs::write(&rows, earlier).unwrap();
    let report = bench.report().await;
    for arm in &report.arms {
        assert_eq!((arm.cut_replies, arm.cut_unknown, arm.median_seconds), (0, 9, None));
    }
    assert_eq!(report.warnings.len(), 2);
    assert!(report.warnings[1].contains("`vote`: 9 of 9 answers are of an earlier version"));
    assert_eq!(large_model.requests().len(), 27);

    // With another limit the questions are asked again.
    let text = text.replace("FOLDER", &bench.folder.path().display().to_string());
    std::fs::write(bench.path("eval.toml"), text + "params = { max_tokens = 512 }\n").unwrap();
    assert_eq!(bench.report().await.arms[1].cut_unknown, 0);
    assert_eq!(large_model.requests().len(), 54);
}

#[tokio::test]
async fn the_bundled_models_run_side_by_side() {
    let extra = "seed = 3\nbrief = false\narms = [\"direct\", \"policy:models/policy-warm\", \
                 \"first-prompt:models/policy-warm\"]\n\
                 [[data]]\nkind = \"world\"\nkinds = [{ chain = 2 }, { chain = 3 }]\nn = 6\n\
                 [[data]]\nkind = \"world_facts\"\nphrasing = \"known\"\nn = 6\n";
    let text = format!("schema_version = 1\noutput = \"FOLDER/out\"\n{extra}");
    let bench = Bench::new("", &text);
    let report = bench.report().await;
    assert_eq!(report.questions, 12);
    for arm in &report.arms {
        assert_eq!((arm.answered, arm.failed), (12, 0));
    }
    assert!(report.arms[1].policy_tokens > 0.0);
    assert!(report.arms[1].policy_tokens_read > report.arms[1].policy_tokens);
    let facts = report.tables[0].rows.iter().find(|row| row.label == "world_facts").unwrap();
    // One prompt answers one question of a fact, and no chain of two.
    let means = facts.cells.iter().map(|cell| cell.unwrap().mean).collect::<Vec<_>>();
    assert_eq!((means[0], means[2]), (1.0, 1.0));
    assert_eq!(report.arms[2].calls, 1.0);
    assert!(report.arms[2].score.unwrap().mean < report.arms[1].score.unwrap().mean);
    assert_eq!(report.episodes.len(), 12);
}

#[tokio::test]
async fn unusable_data_and_arms_are_reported() {
    let data = |path: &str| format!("[[data]]\nkind = \"file\"\npath = \"FOLDER/{path}\"\n");
    let base = "schema_version = 1\noutput = \"FOLDER/out\"\narms = [\"direct\"]\n";
    for (config, code, reason) in [
        (base.replace("direct", "dirct") + &data("questions.jsonl"), 64, "there is no such method"),
        (base.to_owned() + &data("none.jsonl"), 1, "none.jsonl"),
        (base.to_owned() + &data("fake.parquet"), 1, "not a Parquet file"),
        (base.to_owned() + &data("questions.jsonl"), 1, "holds no row that can be used"),
        (base.to_owned() + "data = []\n", 1, "there are no questions"),
    ] {
        let bench = Bench::new("{\"question\": \"Who?\", \"answer\": []}\n", &config);
        std::fs::write(bench.path("fake.parquet"), "{}").unwrap();
        let output = bench.run().await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("error: ") && said.contains(reason), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_large_model_that_never_answers_ends_the_run() {
    let large_model = Loopback::answering(|_| Script::error(401, "wrong key")).await;
    let bench = Bench::new(&questions(3), &config(&large_model.url(), "arms = [\"direct\"]"));
    let output = bench.run().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("none of 3 rows was answered") && said.contains("wrong key"), "{said}");
    assert!(said.contains("hint: when the cause is gone"), "{said}");
}
