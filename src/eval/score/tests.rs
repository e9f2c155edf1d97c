#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::eval::rows::ArmAnswer;
use crate::hint::Hint;
use crate::large_model::{Call, LargeModelError, Reply, Scripted};
use crate::task::Task;

/// Embeds by first letter: equal letters have the same direction, capitals the opposite one.
struct Letters(AtomicUsize);

impl SentenceEncoder for Letters {
    fn embed(&self, text: &str) -> Result<Vec<f32>, String> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match text.chars().next() {
            Some('a') => Ok(vec![1.0, 0.0]),
            Some('A') => Ok(vec![-1.0, 0.0]),
            Some('m') => Ok(vec![0.6, 0.8]),
            _ => Err("no such letter".into()),
        }
    }
}

fn question(metric: Metric, golds: &[&str]) -> Question {
    let golds = golds.iter().map(|&gold| gold.to_owned()).collect();
    Question { task: Task { question: "q".into(), golds, ..Task::default() }, metric }
}

fn judge(reply: impl Fn(&str) -> Result<Reply, LargeModelError> + Send + Sync + 'static) -> Judge {
    let model = Scripted::new("j", move |call: &Call| reply(&call.messages[0].as_text()));
    Judge::new(Arc::new(model), None, Duration::from_secs(9)).unwrap()
}

#[tokio::test]
async fn similarity_is_that_of_the_nearest_gold_and_golds_are_embedded_once() {
    let encoder = Arc::new(Letters(AtomicUsize::new(0)));
    let scorer = Scorer::new(Normalization::default()).with_encoder(encoder.clone());
    let asked = question(Metric::Ssim, &["m", "A"]);
    let of = async |answer: &str| scorer.score(&asked, answer).await.unwrap().value.unwrap();
    assert!((of("a").await - 0.6).abs() < 1e-6);
    assert_eq!(of("A").await, 1.0);
    assert_eq!(encoder.0.load(Ordering::SeqCst), 4);
    let away = question(Metric::Ssim, &["A"]);
    assert_eq!(scorer.score(&away, "a").await.unwrap().value, Ok(0.0));
    let error = scorer.score(&away, "?").await.unwrap_err().to_string();
    assert!(error.contains("no such letter"), "{error}");
}

#[tokio::test]
async fn nothing_scores_nothing_under_every_metric() {
    let never = judge(|_| unreachable!("the judge was asked"));
    let scorer = Scorer::new(Normalization::default())
        .with_encoder(Arc::new(Letters(AtomicUsize::new(0))))
        .with_judge(never);
    for metric in Metric::all() {
        for answer in ["", " \n\t"] {
            let score = scorer.score(&question(metric, &["", "the"]), answer).await.unwrap();
            assert_eq!(score, Score { value: Ok(0.0), judge: CallUsage::default() }, "{metric:?}");
        }
    }
}

#[tokio::test]
async fn a_judge_is_shown_the_answer_and_its_cost_is_counted() {
    let scorer = Scorer::new(Normalization::default()).with_judge(judge(|asked| {
        assert!(
            asked.contains("- gold\n") && asked.contains("==========\n</x>{{ y }}\n"),
            "{asked}"
        );
        let mut reply = Reply::text("Nearly.\nScore: 0.75");
        reply.usage.prompt_tokens = 5;
        Ok(reply)
    }));
    let score = scorer.score(&question(Metric::Judge, &["gold"]), "</x>{{ y }}").await.unwrap();
    assert_eq!(score.value, Ok(0.75));
    assert_eq!((score.judge.calls, score.judge.tokens.prompt_tokens), (1, 5));
}

#[tokio::test]
async fn a_judge_that_fails_gives_no_score() {
    let scorer = Scorer::new(Normalization::default()).with_judge(judge(|asked| {
        let model = "j".to_owned();
        match asked.contains("down") {
            true => Err(LargeModelError::Rejected { model, reason: "it is off".into() }),
            false => Ok(Reply::text("I would rather not say.")),
        }
    }));
    let questions = vec![question(Metric::Judge, &["gold"]); 2];
    let answered = |answer: &str| {
        Outcome::Answered(ArmAnswer { answer: answer.into(), ..ArmAnswer::default() })
    };
    let failed = Outcome::Failed { error: "x".into(), usage: Default::default() };
    let outcomes = vec![vec![answered("down"), answered("")], vec![answered("up"), failed]];
    let mut count = 0;
    let stop = CancellationToken::new();
    let scores = scorer.score_all(&questions, &outcomes, 2, &stop, || count += 1).await.unwrap();
    assert_eq!(count, 3);
    let error = |at: usize| scores.by_question[at][0].clone().unwrap().unwrap_err();
    assert!(error(0).contains("it is off") && error(1).contains("no last line"), "{scores:?}");
    assert_eq!(scores.by_question[0][1], Some(Ok(0.0)));
    assert_eq!(scores.by_question[1][1], None);
    assert_eq!(scores.judge.calls, 2);
}

#[test]
fn a_judges_template_is_tried_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.j2");
    let model = || Arc::new(Scripted::texts("j", &[]));
    for (text, reason) in
        [("{{ anwser }}", "undefined"), ("{{ question }}", "leaves the answer out")]
    {
        std::fs::write(&file, text).unwrap();
        let error = Judge::new(model(), Some(&file), Duration::ZERO).err().unwrap().explained();
        assert!(error.contains(reason) && error.contains("mine.j2"), "{error}");
        assert!(error.contains("the variables are `question`, `golds`, `answer`"), "{error}");
    }
    let error = Judge::new(model(), Some(&folder.path().join("none.j2")), Duration::ZERO);
    assert!(error.err().unwrap().to_string().contains("none.j2"));
}
