#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use super::*;
use crate::eval::metric_choice::Metric;
use crate::large_model::{LargeModelError, Reply, Scripted};
use crate::reward::{AnswerMetric, Normalization};
use crate::task::Task;

/// Questions `what is N`, answered by N.
fn questions(count: usize) -> Vec<Question> {
    let task = |n: usize| Task {
        id: n.to_string(),
        question: format!("what is {n}"),
        golds: vec![n.to_string()],
        ..Task::default()
    };
    (0..count)
        .map(|n| Question { task: task(n), metric: Metric::Text(AnswerMetric::Exact) })
        .collect()
}

/// Right for as many of ten questions as the prompt has exclamation marks.
fn by_marks(prompt: &str) -> Result<Reply, LargeModelError> {
    let digits: String = prompt.chars().filter(char::is_ascii_digit).collect();
    let n: usize = digits.parse().unwrap();
    let reply = if n % 10 < prompt.matches('!').count() { digits } else { "no".into() };
    let mut reply = Reply::text(reply);
    (reply.usage.prompt_tokens, reply.usage.completion_tokens) = (10, 1);
    Ok(reply)
}

/// Proposes the last prompt it is shown with one more exclamation mark.
fn one_more(asked: &str) -> Result<Reply, LargeModelError> {
    let (before, _) = asked.split_once("How replies are read").unwrap();
    let (_, last) = before.rsplit_once("<prompt>\n").unwrap();
    let (last, _) = last.split_once("\n</prompt>").unwrap();
    Ok(Reply::text(format!("Louder.\n<prompt>\n{last}!\n</prompt>")))
}

type Replies = fn(&str) -> Result<Reply, LargeModelError>;

struct Setup {
    config: SearchConfig,
    questions: Vec<Question>,
    model: Replies,
    proposer: Replies,
    start: Vec<String>,
    brief: BriefSources,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Setup {
    fn new(budget: u64) -> Self {
        let config =
            SearchConfig { budget, sample: 10, proposals: 2, proposer: None, data: Vec::new() };
        Self {
            config,
            questions: questions(10),
            model: by_marks,
            proposer: one_more,
            start: vec!["{question}".into(), "{question}\n\nNow!!".into()],
            brief: BriefSources::default(),
            asked: Arc::default(),
        }
    }

    fn scripted(&self, name: &str, reply: Replies) -> Arc<dyn LargeModel> {
        let asked = Arc::clone(&self.asked);
        Arc::new(Scripted::new(name, move |call: &Call| {
            let text = call.messages[0].as_text();
            asked.lock().unwrap().push(text.clone());
            reply(&text)
        }))
    }

    async fn run(&self) -> Result<SearchResult, EvalError> {
        let search = Search {
            config: &self.config,
            questions: &self.questions,
            model: self.scripted("m", self.model),
            proposer: self.scripted("p", self.proposer),
            scorer: &Scorer::new(Normalization::default()),
            start: self.start.clone(),
            brief: &self.brief,
            seed: 1,
            max_in_flight: 4,
            deadline: Duration::from_secs(9),
        };
        search.run().await
    }
}

#[tokio::test]
async fn prompts_get_better_within_the_budget() {
    let setup = Setup::new(100);
    let found = setup.run().await.unwrap();
    // Two to start from: 20 calls. A round asks twice, both propose the same, and that is tried
    // once: 12 calls. After five rounds 20 calls are left, which pay for one proposal and its
    // trial.
    assert_eq!(found.usage.calls, 91);
    assert_eq!(setup.asked.lock().unwrap().len(), 91);
    assert_eq!(found.prompt, "{question}\n\nNow!!!!!!!!");
    let scores: Vec<f64> = found.tried.iter().map(|tried| tried.score.unwrap()).collect();
    assert_eq!(scores, [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]);
    assert_eq!(
        found.tried.iter().map(|tried| tried.round).collect::<Vec<_>>(),
        [0, 0, 1, 2, 3, 4, 5, 6]
    );
    // Tokens of 80 attempts; proposals were billed nothing.
    assert_eq!(found.usage.tokens.prompt_tokens, 800);
    assert_eq!(Setup::new(100).run().await.unwrap(), found);
}

#[tokio::test]
async fn proposers_see_scores_and_mistakes() {
    let setup = Setup::new(60);
    setup.run().await.unwrap();
    let asked = setup.asked.lock().unwrap();
    let proposals: Vec<&String> = asked.iter().filter(|text| text.contains("<prompt>")).collect();
    let first = proposals[0];
    for part in ["Score 0.0:", "Score 20.0:", "Reply: no", "Right answer: ", "contain {question}"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert_eq!(first.matches("Question: ").count(), SHOWN_MISTAKES);
    // Those of the best prompt, which gets 0 and 1 right.
    assert!(!first.contains("what is 0") && !first.contains("what is 1"), "{first}");
    // Within a round, each proposal is shown other mistakes.
    assert_ne!(proposals[0], proposals[1]);
}

#[tokio::test]
async fn failed_calls_are_counted_and_are_no_wrong_answers() {
    let mut setup = Setup::new(100);
    // A third of the questions fail; the others are right by the usual rule.
    setup.model =
        |prompt| match prompt.contains('3') || prompt.contains('6') || prompt.contains('9') {
            true => Err(LargeModelError::Malformed { model: "m".into(), reason: "down".into() }),
            false => by_marks(prompt),
        };
    let found = setup.run().await.unwrap();
    assert_eq!(found.usage.calls, 91);
    let second = &found.tried[1];
    assert_eq!((second.answered, second.score), (7, Some(2.0 / 7.0)));
    // What a call without a reply has read is estimated beside the ten tokens of each of the others.
    let answered: usize = found.tried.iter().map(|tried| tried.answered).sum();
    assert!(found.usage.tokens.prompt_tokens > 10 * answered as u64, "{:?}", found.usage);
    // If nearly all fail, there is no basis for a choice.
    setup.model = |_| Err(LargeModelError::Rejected { model: "m".into(), reason: "down".into() });
    let error = setup.run().await.unwrap_err().to_string();
    assert!(error.contains("could not score any prompt") && error.contains("down"), "{error}");
}

#[tokio::test]
async fn proposers_may_fail_or_talk_nonsense() {
    for proposer in [(|_: &str| Ok(Reply::text("I do not know"))) as Replies, |_| {
        Err(LargeModelError::Rejected { model: "p".into(), reason: "down".into() })
    }] {
        let setup = Setup { proposer, ..Setup::new(40) };
        let found = setup.run().await.unwrap();
        assert_eq!(found.prompt, "{question}\n\nNow!!");
        assert_eq!(found.tried.len(), 2);
        // It gives up before the budget is spent.
        assert_eq!(found.usage.calls, 25);
    }
}

#[tokio::test]
async fn replies_are_read_as_the_arm_reads_them() {
    let task = Task { golds: vec!["Rome".into()], source: "own".into(), ..Task::default() };
    let metric = Metric::Text(AnswerMetric::Exact);
    let mut setup = Setup::new(10);
    setup.questions = vec![Question { task, metric }; 10];
    setup.start = vec!["{question}\nAnswer:".into()];
    setup.model = |_| Ok(Reply::text("It is this:\nRome"));
    for (brief, score) in
        [(BriefSources::among(&setup.questions), 1.0), (BriefSources::default(), 0.0)]
    {
        setup.brief = brief;
        assert_eq!(setup.run().await.unwrap().tried[0].score, Some(score));
    }
}

#[tokio::test]
async fn a_budget_that_pays_for_nothing_is_said() {
    let error = Setup::new(5).run().await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("`prompt_search.budget` is 5 calls, one prompt takes 10"), "{said}");
    assert_eq!(error.hint().as_deref(), Some("raise it, or lower `prompt_search.sample`"));
}

#[test]
fn training_questions_are_drawn_by_the_seed() {
    let world = "{ kind = \"world\", split = \"train\", kinds = [{ chain = 2 }], n = 40 }";
    let text = format!("sample = 8\ndata = [{world}, {{ kind = \"world_facts\", n = 40 }}]");
    let config: SearchConfig = toml::from_str(&text).unwrap();
    let of = |seed| {
        let read = training_questions(&config, &MetricConfig::default(), seed).unwrap();
        read.questions.into_iter().map(|question| question.task).collect::<Vec<_>>()
    };
    assert_eq!(of(1).len(), 8);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert!(of(1).iter().any(|task| &*task.source == "world"));
    assert!(of(1).iter().any(|task| &*task.source == "world_facts"));
}

#[test]
fn what_is_taken_from_a_proposal() {
    for (reply, prompt) in [
        ("So.\n<prompt>\nSay: {question}\n</prompt> Good.", Some("Say: {question}")),
        ("<prompt>a</prompt> or <prompt>b {question}</prompt>", Some("b {question}")),
        ("<prompt>Be brief.</prompt>", Some("{question}\n\nBe brief.")),
        ("<prompt>{{ x }} {% raw %} {question}</prompt>", Some("{{ x }} {% raw %} {question}")),
        ("<prompt> </prompt>", None),
        ("<prompt>open", None),
        ("nothing", None),
    ] {
        assert_eq!(proposed(reply).as_deref(), prompt, "{reply}");
    }
    assert_eq!(proposed(&format!("<prompt>{}</prompt>", "x".repeat(MAX_PROMPT_CHARS + 1))), None);
}

#[test]
fn a_finished_search_is_found_again_under_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let saved = ResultFile::new(folder.path(), "a".into());
    assert_eq!(saved.read().unwrap(), None);
    let tried = vec![Tried { prompt: "p".into(), round: 1, score: Some(0.5), answered: 2 }];
    let found = SearchResult {
        prompt: "p".into(),
        tried,
        usage: CallUsage { calls: 3, ..CallUsage::default() },
    };
    saved.write(&found).unwrap();
    assert_eq!(saved.read().unwrap(), Some(found));
    assert_eq!(ResultFile::new(folder.path(), "b".into()).read().unwrap(), None);
    std::fs::write(folder.path().join("prompt-search.json"), "{").unwrap();
    let error = saved.read().unwrap_err().to_string();
    assert!(error.contains("is damaged at line 1"), "{error}");
}
