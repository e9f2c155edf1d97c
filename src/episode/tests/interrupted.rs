//! Episodes that are dropped before their end.

use super::*;

#[tokio::test]
async fn what_was_used_is_known_when_an_episode_is_dropped() {
    let protocol = Protocol::load(None).unwrap();
    let policy = ScriptedPolicy::turns([ASK_A, ASK_B, SAY]);
    // Its first reply comes at once, its second never.
    let model = Stuck::new(false);
    let participants = Participants { policy: &policy, large_model: &model, protocol: &protocol };
    let request = EpisodeRequest::new("the question", Sampling::GREEDY);
    let tally = request.tally.clone();
    let calls = || tally.lock().unwrap().large_model.calls;
    let mut silent = DiscardEvents;
    let episode = run_episode(participants, &request, &mut silent);
    tokio::pin!(episode);
    let second_call = async {
        while calls() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = &mut episode => panic!("{ended:?}"),
        () = second_call => {}
    }
    let used = *tally.lock().unwrap();
    assert_eq!(used.policy.calls, 2);
    // The endpoint reports no usage for a cancelled call: it is estimated from its text.
    assert!(used.large_model.tokens.prompt_tokens > 0, "{used:?}");
}
