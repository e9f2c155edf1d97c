//! What a run is made of, compared when it is resumed.

use super::*;

#[test]
fn another_large_model_or_reward_at_the_same_path_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("run"));
    config.eval.tasks = 0;
    let large_model = folder.path().join("large-model");
    std::fs::create_dir(&large_model).unwrap();
    let shape = large_model.join("config.json");
    std::fs::write(&shape, "{}").unwrap();
    config.large_model.path = Some(large_model);
    let script = folder.path().join("reward.sh");
    std::fs::write(&script, "tr -cd e | wc -c").unwrap();
    let command = vec!["sh".into(), script.display().to_string()];
    config.reward.external.as_mut().unwrap().command = command;
    let mut first = Listener { cancel_after: Some(2), ..Listener::default() };
    run_grpo(&config, echo(), false, &mut first).unwrap_err();

    std::fs::write(&script, "wc -c").unwrap();
    std::fs::write(&shape, "{ }").unwrap();
    let error = run_grpo(&config, echo(), true, &mut Listener::default()).unwrap_err().to_string();
    assert!(error.contains("the contents of `large_model.path/config.json`"), "{error}");
    std::fs::write(&shape, "{}").unwrap();
    run_grpo(&config, echo(), true, &mut Listener::default()).unwrap();
    let summary = config.output.join("summary.json");
    let summary = std::fs::read_to_string(summary).unwrap();
    assert!(summary.contains("reward.sh`, which act on what is learnt"), "{summary}");
}
