//! Episodes of training steps that are kept to be looked at: in `samples/`, a file for each step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::collect::{Collected, Group};
use super::config::SampleConfig;
use super::evaluate::SampleEpisode;
use super::rollout::Scored;
use super::step_files;
use crate::atomic_file;
use crate::run_files;
use crate::train::error::TrainError;
use crate::trajectory::{Action, Trajectory};

/// The most that the texts of one episode may have together, bytes; longer ones are cut.
const EPISODE_BYTES: usize = 64 * 1024;

/// Where a run's sample episodes are.
#[derive(Debug)]
pub struct Samples {
    folder: PathBuf,
    config: SampleConfig,
}

/// The sample episodes of a step.
#[derive(Debug, Serialize)]
struct Step {
    step: u64,
    shown: Vec<SampleEpisode>,
}

impl Samples {
    /// The samples of the run in `root`, which continues after `step` steps: what an earlier
    /// attempt wrote beyond them is removed.
    ///
    /// # Errors
    /// When a file cannot be read or removed.
    pub fn open(root: &Path, step: u64, config: SampleConfig) -> io::Result<Self> {
        let folder = root.join(run_files::SAMPLES);
        step_files::remove(&folder, |of| of > step || of + config.keep_steps <= step)?;
        Ok(Self { folder, config })
    }

    /// Writes some of the episodes that step `step` learnt from.
    ///
    /// # Errors
    /// When a file cannot be written or removed.
    pub fn write(&self, step: u64, collected: &Collected) -> Result<(), TrainError> {
        let SampleConfig { episodes, keep_steps } = self.config;
        if episodes == 0 || keep_steps == 0 {
            return Ok(());
        }
        let shown = chosen(&collected.groups, episodes);
        let text = serde_json::to_string(&Step { step, shown }).map_err(io::Error::other)?;
        fs::create_dir_all(&self.folder)?;
        atomic_file::write(&self.path(step), text)?;
        match step.checked_sub(keep_steps).map(|old| fs::remove_file(self.path(old))) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn path(&self, step: u64) -> PathBuf {
        step_files::path(&self.folder, step)
    }
}

/// At most `most` episodes of `groups`.
fn chosen(groups: &[Group], most: usize) -> Vec<SampleEpisode> {
    let mut groups: Vec<_> = groups.iter().collect();
    groups.sort_by_key(|group| group.advantages.is_none());
    groups.into_iter().flat_map(best_and_worst).take(most).collect()
}

/// The best and the worst episode of a group; one of them where all are worth the same.
fn best_and_worst(group: &Group) -> impl Iterator<Item = SampleEpisode> {
    let reward = |place: &usize| group.members[*place].reward.total;
    let places = 0..group.members.len();
    let best = places.clone().rev().max_by(|a, b| reward(a).total_cmp(&reward(b)));
    let worst = places.min_by(|a, b| reward(a).total_cmp(&reward(b)));
    let worst = worst.filter(|worst| best.is_some_and(|best| reward(&best) != reward(worst)));
    best.into_iter().chain(worst).map(move |place| shown(group, place))
}

fn shown(group: &Group, place: usize) -> SampleEpisode {
    let Scored { episode, reward, .. } = &group.members[place];
    let turns = episode.trajectory.turns.clone();
    let mut shown = SampleEpisode {
        task: group.task.clone(),
        trajectory: Trajectory { turns, ..Trajectory::default() },
        reward: reward.total,
        advantage: group.advantages.as_ref().map(|advantages| advantages[place]),
    };
    truncate_texts(&mut shown);
    shown
}

/// Cuts the longest texts of an episode that has more than [`EPISODE_BYTES`], and says so in them.
fn truncate_texts(shown: &mut SampleEpisode) {
    let mut texts = vec![&mut shown.task.question];
    texts.extend(&mut shown.task.golds);
    for turn in &mut shown.trajectory.turns {
        texts.push(&mut turn.text);
        texts.extend(&mut turn.think);
        match &mut turn.action {
            Action::Prompt(text) | Action::FinalPrompt(text) | Action::Answer(text) => {
                texts.push(text);
            }
            Action::Nothing => {}
        }
        if let Some(seen) = &mut turn.observation {
            texts.extend(&mut seen.sent);
            texts.push(&mut seen.reply);
        }
    }
    let all: usize = texts.iter().map(|text| text.len()).sum();
    if all <= EPISODE_BYTES {
        return;
    }
    let most = EPISODE_BYTES / texts.len();
    for text in texts {
        let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        let end = end.unwrap_or(0);
        let cut = text.len() - end;
        if cut > 0 {
            text.truncate(end);
            text.push_str(&format!("… [{cut} more bytes were not kept]"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::episode::{AnswerSource, Episode, EpisodeUsage, FinishReason};
    use crate::reward::Reward;
    use crate::task::Task;
    use crate::trajectory::Turn;

    /// A group whose members answer with `text` and are worth `rewards`.
    fn group(name: &str, rewards: &[f64], text: &str) -> Group {
        let turn: Turn = serde_json::from_value(json!({
            "text": text, "think": null, "action": { "kind": "answer", "text": text },
            "finish": "stop", "tokens": 1, "millis": 1, "observation": null
        }))
        .unwrap();
        let member = |&total: &f64| Scored {
            episode: Episode {
                answer: text.to_owned(),
                answer_source: AnswerSource::Policy,
                finish_reason: FinishReason::Answered,
                trajectory: Trajectory { turns: vec![turn.clone()], ..Trajectory::default() },
                usage: EpisodeUsage::default(),
                model_micros: 0,
                reply: None,
            },
            reward: Reward { total, ..Reward::default() },
            judged: None,
            cost: 0.0,
        };
        let task = Task { question: name.into(), golds: vec!["g".into()], ..Task::default() };
        Group::new(task, rewards.iter().map(member).collect(), &Default::default())
    }

    fn read(folder: &Path, step: u64) -> Value {
        let path = folder.join(format!("samples/step-{step:08}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn steps(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("samples")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_best_and_the_worst_are_kept_where_there_is_something_to_learn() {
        let folder = tempfile::tempdir().unwrap();
        let groups = vec![
            group("alike", &[0.5, 0.5], "a"),
            group("first", &[0.0, 1.0, 0.25], "a"),
            group("second", &[0.75, 0.25], "a"),
        ];
        let collected = Collected { groups, ..Collected::default() };
        let config = SampleConfig { episodes: 6, ..SampleConfig::default() };
        Samples::open(folder.path(), 0, config).unwrap().write(3, &collected).unwrap();
        let written = read(folder.path(), 3);
        assert_eq!(written["step"], 3);
        let shown: Vec<_> = written["shown"].as_array().unwrap().iter().collect();
        let rewards: Vec<_> =
            shown.iter().map(|one| (&one["task"]["question"], one["reward"].as_f64())).collect();
        let expected = json!(["first", "first", "second", "second", "alike"]);
        let expected = expected.as_array().unwrap().iter();
        let values = [1.0, 0.0, 0.75, 0.25, 0.5].map(Some);
        assert_eq!(rewards, expected.zip(values).collect::<Vec<_>>());
        assert!(shown[0]["advantage"].as_f64() > shown[1]["advantage"].as_f64());
        assert_eq!(shown[4].get("advantage"), None, "nothing is learnt from it");
    }

    #[test]
    fn steps_and_bytes_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let groups = vec![group("long", &[0.0, 1.0], &"é".repeat(EPISODE_BYTES))];
        let collected = Collected { groups, ..Collected::default() };
        let config = SampleConfig { episodes: 1, keep_steps: 2 };
        let samples = Samples::open(folder.path(), 0, config).unwrap();
        for step in 1..=4 {
            samples.write(step, &collected).unwrap();
        }
        assert_eq!(steps(folder.path()), ["step-00000003.json", "step-00000004.json"]);
        let written = read(folder.path(), 4);
        assert!(written.to_string().len() < EPISODE_BYTES + 2_000);
        let text = written["shown"][0]["trajectory"]["turns"][0]["text"].as_str().unwrap();
        assert!(text.contains("more bytes were not kept"), "{}", &text[text.len() - 60..]);

        // A run that goes on after its third step writes the fourth anew.
        Samples::open(folder.path(), 3, config).unwrap();
        assert_eq!(steps(folder.path()), ["step-00000003.json"]);
        let none = SampleConfig { episodes: 0, ..config };
        Samples::open(folder.path(), 3, none).unwrap().write(5, &collected).unwrap();
        assert_eq!(steps(folder.path()), ["step-00000003.json"]);
    }
}
