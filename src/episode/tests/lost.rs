//! Calls that fail unseen, as another model replies.

use super::*;
use crate::large_model::{LargeModelError, Phase, WithFallbacks};

#[tokio::test]
async fn a_failed_call_that_may_be_billed_counts_beside_the_reply() {
    let failing: Arc<dyn LargeModel> = Arc::new(Scripted::new("slow", |_: &Call| {
        let (model, limit) = ("slow".to_owned(), Duration::from_secs(1));
        Err(LargeModelError::Timeout { model, phase: Phase::FirstByte, limit })
    }));
    let (replying, _) = counting();
    let model = WithFallbacks::new(failing, vec![Arc::new(replying)]);
    let policy = ScriptedPolicy::turns([ASK_A, SAY]);
    let episode = run_with(&policy, &model, Limits::default()).await.unwrap();
    let used = episode.usage.large_model;
    assert_eq!(used.calls, 2);
    // The reply's own 10, and the estimate of the other.
    assert!(used.tokens.prompt_tokens > 10, "{used:?}");
    assert_eq!(used.tokens.completion_tokens, 2);
    let observation = episode.trajectory.turns[0].observation.as_ref().unwrap();
    assert_eq!(observation.usage.prompt_tokens, 10);
}
