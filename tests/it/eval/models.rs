//! Evaluations in which models do more than answer: a judge, a proposer of prompts, a sentence
//! encoder; and a large model that answers too much at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::{Bench, asked, questions};
use crate::loopback::{Gate, Loopback, Recorded, Script};

/// A configuration with an arm `direct` beside others, all of it but the head given.
fn configured(url: &str, rest: &str) -> String {
    format!(
        "schema_version = 1\noutput = \"FOLDER/out\"\ndefault_large_model = \"big\"\n{rest}\n\
         [[data]]\nkind = \"file\"\npath = \"FOLDER/questions.jsonl\"\nsource = \"own\"\n\
         [large_models.big]\nurl = \"{url}\"\nmodel = \"m\"\n\
         prices = {{ input_per_million = 1000.0, output_per_million = 2000.0 }}\n\
         breaker = {{ failures = 0 }}\nretries = {{ max = 0 }}\n"
    )
}

/// Requests by prompt, and how often each was made.
fn times(large_model: &Loopback) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for request in large_model.requests() {
        *times.entry(request.json().to_string()).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn a_prompt_is_searched_for_on_training_questions_and_its_arm_pays() {
    // The model is right if the prompt shouts, and proposes to shout.
    let answering = |request: &Recorded| {
        let prompt = request.prompt();
        if prompt.contains("<prompt>") {
            return Script::reply("Louder!\n<prompt>\n{question} NOW\n</prompt>");
        }
        let n = prompt.split_whitespace().find_map(|word| word.trim_end_matches('?').parse().ok());
        let n: usize = n.unwrap();
        Script::reply(&if prompt.ends_with("NOW") { n.to_string() } else { "no".into() })
    };
    let large_model = Loopback::answering(answering).await;
    let extra = "arms = [\"direct\", \"best=prompt-search\"]\nmax_in_flight = 1\n\
         metrics = { by_source = { own = \"exact\" } }\n\
         prompt_search = { budget = 40, sample = 4, proposals = 2, data = [\n\
         { kind = \"file\", path = \"FOLDER/train.jsonl\", source = \"own\" }] }";
    let bench = Bench::new(&questions(10), &configured(&large_model.url(), extra));
    // One training question is also a test question.
    let train: String = (9..13)
        .map(|n| {
            json!({"question": format!("What is {n}?"), "answer": n.to_string()}).to_string() + "\n"
        })
        .collect();
    std::fs::write(bench.path("train.jsonl"), train).unwrap();

    // Killed in the middle of the search, it continues and pays for nothing twice.
    let gate = Gate::default();
    for _ in 0..6 {
        large_model.then(Script::reply("no"));
    }
    large_model.then(Script::reply("no").held(&gate));
    let mut child = bench.start();
    large_model.wait_for_requests(7).await;
    child.kill().await.unwrap();
    let held = large_model.last().json().to_string();
    let report = bench.report().await;
    let times = times(&large_model);
    assert!(times.iter().all(|(what, times)| *times == if *what == held { 2 } else { 1 }));

    let found = report.search.as_ref().unwrap();
    assert_eq!(found.prompt, "{question} NOW");
    // Three initial prompts and the proposed one, four questions each; in every round two proposals,
    // until there was nothing new for long enough.
    let proposals = times.keys().filter(|what| what.contains("<prompt>")).count() as u64;
    assert_eq!(found.usage.calls, 16 + proposals);
    assert!(found.usage.calls <= 40);
    let [direct, best] = &report.arms[..] else { unreachable!() };
    assert_eq!((direct.score.unwrap().mean, best.score.unwrap().mean), (0.0, 1.0));
    assert_eq!((direct.calls, direct.total.large_model.calls), (1.0, 10));
    assert_eq!(best.total.large_model.calls, 10 + found.usage.calls);
    assert!((best.calls - (10 + found.usage.calls) as f64 / 10.0).abs() < 1e-9);
    assert!(best.cost > direct.cost);
    assert_eq!(found.tried.len(), 4);
    let warnings = report.warnings.join("\n");
    assert!(
        warnings.contains("1 of 10 questions are also among those of the prompt search"),
        "{warnings}"
    );

    // A finished search is not repeated.
    let before = large_model.requests().len();
    assert_eq!(bench.report().await, report);
    assert_eq!(large_model.requests().len(), before);
}

#[tokio::test]
async fn what_a_fallback_answers_is_charged_at_its_prices() {
    let down = Loopback::answering(|_| Script::error(503, "down")).await;
    let spare = Loopback::answering(|request| {
        let prompt = request.prompt();
        Script::reply(match () {
            () if prompt.contains("Score:") => "Score: 1",
            () if prompt.contains("<prompt>") => "<prompt>\n{question} NOW\n</prompt>",
            () => "no",
        })
    })
    .await;
    let rest = format!(
        "arms = [\"direct\", \"best=prompt-search\"]\njudge = {{ model = \"big\" }}\n\
         metrics = {{ by_source = {{ own = \"judge\", train = \"exact\" }} }}\n\
         prompt_search = {{ budget = 40, sample = 4, proposals = 2, data = [\n\
         {{ kind = \"file\", path = \"FOLDER/train.jsonl\", source = \"train\" }}] }}\n\
         [large_models.spare]\nurl = {:?}\nmodel = \"s\"\n\
         prices = {{ input_per_million = 1.0, output_per_million = 2.0 }}",
        spare.url()
    );
    let text = configured(&down.url(), &rest) + "fallbacks = [\"spare\"]\n";
    let bench = Bench::new(&questions(3), &text);
    let train: String = (10..14)
        .map(|n| json!({"question": format!("What is {n}?"), "answer": "1"}).to_string() + "\n")
        .collect();
    std::fs::write(bench.path("train.jsonl"), train).unwrap();
    let report = bench.report().await;
    // 11 tokens read and 7 written; the first model would have charged a thousand times as much.
    let a_call = (11.0 + 7.0 * 2.0) / 1e6;
    let [direct, best] = &report.arms[..] else { unreachable!() };
    let (search, judge) = (report.search.as_ref().unwrap(), report.judge.as_ref().unwrap());
    for (what, usage) in [
        ("direct", direct.total.large_model),
        ("prompt search", search.usage),
        ("judge", judge.usage),
        ("its arm", best.total.large_model),
    ] {
        assert!(usage.calls > 0, "{what}: {usage:?}");
        assert!((usage.cost - usage.calls as f64 * a_call).abs() < 1e-12, "{what}: {usage:?}");
    }
    // Nor does a reply that is read from the file cost what the first model would have charged.
    assert_eq!(bench.report().await, report);
}

#[tokio::test]
async fn a_judge_that_fails_for_a_third_leaves_those_unscored() {
    let large_model = Loopback::answering(|request| {
        Script::reply(&format!("It is {}.", asked(&request.prompt())))
    })
    .await;
    let judge = Loopback::answering(|request| {
        let prompt = request.prompt();
        assert!(prompt.starts_with("Mine. "), "{prompt}");
        match asked(prompt.split('/').next().unwrap()) {
            n if n.is_multiple_of(3) => Script::error(500, "overloaded"),
            1 => Script::reply("I cannot say."),
            _ => Script::reply("Right.\nScore: 0.75"),
        }
    })
    .await;
    let extra = format!(
        "arms = [\"direct\"]\nmetrics = {{ by_source = {{ own = \"judge\" }} }}\n\
         judge = {{ model = \"judge\", prompt = \"FOLDER/mine.j2\" }}\n\
         [large_models.judge]\nurl = \"{}\"\nmodel = \"j\"\nbreaker = {{ failures = 0 }}\n\
         prices = {{ input_per_million = 1000000.0, output_per_million = 0.0 }}\n\
         retries = {{ max = 0 }}\n",
        judge.url()
    );
    let bench = Bench::new(&questions(9), &configured(&large_model.url(), &extra));
    std::fs::write(bench.path("mine.j2"), "Mine. {{ question }}/{{ golds[0] }}/{{ answer }}")
        .unwrap();
    let report = bench.report().await;
    let arm = &report.arms[0];
    assert_eq!((arm.answered, arm.failed, arm.unscored), (9, 0, 4));
    assert_eq!((arm.score.unwrap().n, arm.score.unwrap().mean), (5, 0.75));
    let failures: Vec<(&str, usize)> =
        report.failures.iter().map(|failure| (failure.error.as_str(), failure.count)).collect();
    assert!(
        failures[0].0.contains("not judged: ")
            && failures[0].0.contains("overloaded")
            && failures[0].1 == 3,
        "{failures:?}"
    );
    assert!(
        failures[1].0.contains("no last line `Score: N`") && failures[1].1 == 1,
        "{failures:?}"
    );
    // The judge is charged to no arm: 11 tokens read in each of 6 replies.
    let judging = report.judge.as_ref().unwrap();
    assert_eq!((judging.model.as_str(), judging.usage.calls), ("judge", 9));
    assert!((judging.usage.cost - 66.0).abs() < 1e-9, "{judging:?}");
    assert!(arm.cost < 1.0);
    // Judgements are stored: only those that failed or have no score are repeated.
    let before = judge.requests().len();
    assert_eq!(bench.report().await, report);
    assert_eq!(judge.requests().len() - before, 4);
    assert_eq!(large_model.requests().len(), 9);
}

#[tokio::test]
async fn sentences_are_compared_and_a_missing_model_is_found_before_anything_is_paid() {
    let large_model = Loopback::answering(|request| match asked(&request.prompt()) {
        0 => Script::reply(""),
        1 => Script::reply("1"),
        _ => Script::reply("the capital of italy"),
    })
    .await;
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    let extra = |model: &Path| {
        let model = model.display();
        format!(
            "arms = [\"direct\"]\nmetrics = {{ by_source = {{ own = \"ssim\" }}, sentence_model = \"{model}\" }}"
        )
    };
    let none = Bench::new(
        &questions(3),
        &configured(&large_model.url(), &extra(Path::new("FOLDER/none"))),
    );
    let output = none.run().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("`ssim`") && said.contains("metrics.sentence_model"), "{said}");
    assert_eq!(large_model.requests().len(), 0);

    let bench = Bench::new(&questions(3), &configured(&large_model.url(), &extra(&tiny)));
    let report = bench.report().await;
    assert_eq!(report.tables[0].rows[0].metric, "SSim");
    let scores: Vec<f64> =
        report.episodes.iter().map(|episode| episode.attempts[0].score.unwrap()).collect();
    assert_eq!(scores[0], 0.0);
    assert!(scores[1] > 0.999_999 && scores[1] <= 1.0, "{scores:?}");
    assert!(scores[2] > 0.0 && scores[2] < 0.999_999, "{scores:?}");
}

#[tokio::test]
async fn long_answers_are_scored() {
    let judge = Loopback::answering(|request| {
        assert!(request.prompt().len() < 50_000);
        Script::reply("Score: 0")
    })
    .await;
    let large_model =
        Loopback::answering(|_| Script::reply(&("word ".repeat(100_000) + "42"))).await;
    let lines: String = ["f1", "judge"]
        .map(|metric| {
            json!({"question": "Which?", "answer": "42", "source": metric}).to_string() + "\n"
        })
        .concat();
    let extra = format!(
        "arms = [\"direct\"]\ncache = false\njudge = {{ model = \"judge\" }}\n\
         metrics = {{ by_source = {{ f1 = \"f1\", judge = \"judge\" }} }}\n\
         [large_models.judge]\nurl = \"{}\"\nmodel = \"j\"\n",
        judge.url()
    );
    let config = configured(&large_model.url(), &extra).replace("source = \"own\"\n", "");
    let bench = Bench::new(&lines, &config);
    let report = bench.report().await;
    let score = |at: usize| report.episodes[at].attempts[0].score.unwrap();
    // One token of a hundred thousand is right, and their events have 20 MB.
    assert!(score(0) > 0.0 && score(0) < 1e-3, "{}", score(0));
    assert_eq!(score(1), 0.0);
    let page = std::fs::metadata(bench.path("out/report.html")).unwrap().len();
    assert!(page < 1_000_000, "{page}");
}

#[tokio::test]
async fn no_more_attempts_are_made_at_one_time_than_allowed() {
    let gate = Gate::default();
    let held = gate.clone();
    let large_model = Loopback::answering(move |request| match asked(&request.prompt()) {
        0..4 => Script::reply("1").held(&held),
        _ => Script::reply("1"),
    })
    .await;
    let extra = "arms = [\"direct\"]\nmax_in_flight = 3";
    let bench = Bench::new(&questions(7), &configured(&large_model.url(), extra));
    let child = bench.start();
    for waiting in [3, 4] {
        large_model.wait_for_requests(waiting).await;
        assert_eq!(large_model.requests().len(), waiting);
        gate.open_once();
    }
    let ended = child.wait_with_output();
    tokio::pin!(ended);
    let output = loop {
        tokio::select! {
            output = &mut ended => break output.unwrap(),
            () = tokio::task::yield_now() => gate.open_once(),
        }
    };
    assert!(output.status.success());
    assert_eq!(large_model.requests().len(), 7);
}
