//! What a policy's folder says about its episodes.

use super::*;

#[tokio::test]
async fn the_folder_may_show_less_of_a_reply_than_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join(crate::protocol::SETTINGS_FILE);
    std::fs::write(settings, r#"{"observation_chars": 4}"#).unwrap();
    let protocol = Protocol::load(Some(folder.path())).unwrap();
    let model = Scripted::texts("m", &["abcdef", "abcdef"]);
    for (limit, head) in [(2048, "abcd"), (3, "abc")] {
        let policy = ScriptedPolicy::new(move |shown| match shown.len() {
            1 => ASK_A.to_owned(),
            _ => format!("<answer>{}</answer>", shown[1].lines().nth(1).unwrap()),
        });
        let participants =
            Participants { policy: &policy, large_model: &model, protocol: &protocol };
        let mut request = EpisodeRequest::new("the question", Sampling::GREEDY);
        request.limits.observation_chars = limit;
        let episode = run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
        assert_eq!(episode.answer, head);
        assert!(episode.trajectory.turns[0].observation.as_ref().unwrap().truncated);
    }
}
