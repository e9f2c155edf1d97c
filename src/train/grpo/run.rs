//! The loop of a run: sample, learn, measure, save.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::runtime::Runtime;

use self::due::Due;
use self::prepare::prepare;
use self::state::{Best, RunState};
use super::async_rollouts::{AsyncRollouts, Gathered};
use super::config::GrpoConfig;
use super::evaluate::Evaluation;
use super::guard::Figures;
use super::judge::AnswerJudge;
use super::report;
use super::samples::Samples;
use super::tasks::Tasks;
use super::token_servers;
use super::trainer::Trainer;
use crate::engine::tokens::{LoadMeter, TokensEngine};
use crate::large_model::LargeModel;
use crate::train::error::TrainError;
use crate::train::metrics::{MetricsLog, Values};
use crate::train::origin::Resume;
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::start::Start;
use crate::train::summary::RunSummary;

mod due;
mod prepare;
mod state;

/// The interval between checks for a stop while episodes run.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// External resources of a run.
pub struct Services {
    /// The large model of its episodes.
    pub large_model: Arc<dyn LargeModel>,
    /// The judge's model, if it is another.
    pub judge: Option<Arc<dyn LargeModel>>,
    /// The servers that sample its episodes, if `tokens` names some.
    pub servers: Option<Arc<TokensEngine>>,
    /// The key of the Tinker server, if it needs one.
    pub trainer_key: Option<SecretString>,
}

impl From<Arc<dyn LargeModel>> for Services {
    fn from(large_model: Arc<dyn LargeModel>) -> Self {
        Self { large_model, judge: None, servers: None, trainer_key: None }
    }
}

/// Runs `config` to its end, or resumes it from its last checkpoint. Returns the finished policy's
/// folder: the best by evaluation, or the last without evaluations.
///
/// # Errors
/// Explains why the run could not start or continue. Earlier checkpoints stay usable.
pub fn run_grpo(
    config: &GrpoConfig,
    services: impl Into<Services>,
    resume: impl Into<Resume>,
    progress: &mut dyn Progress,
) -> Result<PathBuf, TrainError> {
    config.check()?;
    let folder = RunFolder::open(&config.output)?;
    let mut summary = RunSummary::new("grpo");
    let (services, mut resume) = (services.into(), resume.into());
    let outcome = loop {
        let ended = prepare(config, &services, resume, &folder, &mut summary)
            .and_then(|mut run| run.train(progress, &mut summary));
        match ended {
            Ok(Ended::Finished(model)) => break Ok(model),
            // It continues from a checkpoint, as if the process had been restarted.
            Ok(Ended::RolledBack) => resume = Resume::Same,
            Err(error) => break Err(error),
        }
    };
    summary.finish(folder.root(), &outcome);
    outcome
}

struct Run<'c> {
    config: &'c GrpoConfig,
    folder: RunFolder,
    start: Start,
    tasks: Arc<Tasks>,
    trainer: Trainer<'c>,
    rollouts: AsyncRollouts,
    judge: Option<Arc<AnswerJudge>>,
    load: Option<LoadMeter>,
    samples: Samples,
    state: RunState,
    /// What evaluations depend on besides the policy.
    basis: u32,
    runtime: Runtime,
}

/// Waits for `future`; `None` if the run is to stop first.
fn wait<T>(
    runtime: &Runtime,
    progress: &dyn Progress,
    future: impl Future<Output = T>,
) -> Option<T> {
    let cancelled = async {
        while !progress.is_cancelled() {
            tokio::time::sleep(CANCEL_POLL).await;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = cancelled => None,
        }
    })
}

/// How a run ended.
enum Ended {
    /// With a finished model, in this folder.
    Finished(PathBuf),
    /// With a checkpoint of its best policy, to continue from.
    RolledBack,
}

impl Run<'_> {
    /// Trains until the last step or a rollback.
    fn train(
        &mut self,
        progress: &mut dyn Progress,
        summary: &mut RunSummary,
    ) -> Result<Ended, TrainError> {
        let mut due = self.state.due.take();
        // A step is logged once it is evaluated.
        let logged = self.trainer.step - u64::from(due.is_some());
        let mut log = MetricsLog::open(self.folder.root(), logged)?;
        let measured = match self.trainer.step {
            0 => {
                // What an earlier attempt measured is measured again.
                self.state.best = None;
                self.evaluate(progress).map(|_| ())
            }
            _ => self.review_best(progress, summary),
        };
        if let Err(error) = measured {
            return Err(self.paused(error, due));
        }
        while due.is_some() || self.trainer.step < self.config.steps {
            let stepped = match due.take() {
                Some(due) => Ok(due),
                None => self.step(progress),
            };
            let due = match stepped {
                Err(error @ TrainError::Diverged(_)) if self.can_roll_back() => {
                    return self.roll_back(&error.to_string(), summary);
                }
                stepped => stepped?,
            };
            if let Some(ended) = self.end_step(due, &mut log, progress, summary)? {
                return Ok(ended);
            }
        }
        self.finish().map(Ended::Finished)
    }

    /// Ends a step: evaluates its policy if it is time to, logs it, and saves the run.
    fn end_step(
        &mut self,
        due: Due,
        log: &mut MetricsLog,
        progress: &mut dyn Progress,
        summary: &mut RunSummary,
    ) -> Result<Option<Ended>, TrainError> {
        let done = self.trainer.step;
        let is_last = done == self.config.steps;
        let best_before = self.state.best;
        let evaluated = match is_last || done.is_multiple_of(self.config.eval.every) {
            true => self.evaluate(progress),
            false => Ok(Default::default()),
        };
        let (more, is_best) = match evaluated {
            Ok(evaluated) => evaluated,
            Err(error) => return Err(self.paused(error, Some(due))),
        };
        let Due { mut values, figures } = due;
        values.extend(more);
        let collapse = self.state.watch.check(&self.config.guards, &figures);
        log.write(done, &values)?;
        summary.step(done, &values);
        progress.step(done, self.config.steps, &values);
        let is_cancelled = progress.is_cancelled();
        let is_due = done.is_multiple_of(self.config.checkpoint_every);
        if let Some(reason) = &collapse
            && self.can_roll_back()
            && !is_last
        {
            // A policy that collapsed must not become the best one.
            self.state.best = best_before;
            return self.roll_back(&reason.text, summary).map(Some);
        }
        if is_due || is_last || is_best || is_cancelled || collapse.is_some() {
            self.checkpoint()?;
        }
        if let Some(reason) = collapse {
            let best = format!("the best policy is in `{}`", self.finish()?.display());
            return Err(TrainError::Collapsed { step: done, reason, best });
        }
        if is_cancelled && !is_last {
            return Err(TrainError::Interrupted(done));
        }
        Ok(None)
    }

    /// One step, with its measurements.
    fn step(&mut self, progress: &dyn Progress) -> Result<Due, TrainError> {
        let begun = Instant::now();
        let step = self.trainer.step;
        let gathered = self.gather(progress)?;
        let waited = begun.elapsed().as_secs_f64();
        let collected = &gathered.collected;
        let learnt = self.trainer.step(&collected.samples())?;
        self.samples.write(self.trainer.step, collected)?;
        self.rollouts.update_weights(&self.trainer)?;

        let has_kl = self.config.objective.kl_coef != 0.0;
        let mut values = collected.values();
        let value = |name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let kl = if has_kl {
            learnt.kl()
        } else if (step + 1).is_multiple_of(self.config.eval.every) {
            let traces: Vec<_> =
                collected.members().map(|scored| &scored.episode.trajectory.trace).collect();
            self.trainer.divergence(&traces)?
        } else {
            None
        };
        let figures = Figures {
            // A policy that always writes the same has nothing to learn from, and an empty update
            // measures nothing.
            entropy: learnt.entropy().or_else(|| collected.sampled_entropy()),
            kl,
            clip_fraction: learnt.clip_fraction(),
            response_tokens: value("response_tokens"),
            zero_variance: value("zero_variance"),
            reward: value("reward"),
            rollout_logprob_diff: learnt.rollout_logprob_diff(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let episodes = collected.members().count() as f64;
        values.extend(learnt.values(has_kl));
        values.extend(kl.filter(|_| !has_kl).map(|kl| ("kl", kl)));
        let rollbacks = f64::from(self.state.rollbacks);
        values.extend((rollbacks > 0.0).then_some(("rollbacks", rollbacks)));
        values.extend([
            ("policy_lag", gathered.policy_lag as f64),
            ("rollout_seconds", gathered.seconds),
            ("wait_seconds", waited),
            ("update_seconds", seconds - waited),
            ("episodes_per_second", episodes / seconds),
            ("tokens_per_second", collected.sampled_tokens() as f64 / seconds),
        ]);
        values.extend(self.load.as_mut().map(token_servers::load).into_iter().flatten());
        Ok(Due { values, figures })
    }

    /// The episodes of the next step. If the large model stays down, saves the run's progress.
    fn gather(&mut self, progress: &dyn Progress) -> Result<Gathered, TrainError> {
        let step = self.trainer.step;
        let gathered = wait(&self.runtime, progress, self.rollouts.gather(step));
        let gathered = gathered.unwrap_or(Err(TrainError::Interrupted(step)));
        gathered.map_err(|error| self.paused(error, None))
    }

    /// Evaluates the current policy. Returns the measurements, and whether it is the best so far.
    fn evaluate(&mut self, progress: &dyn Progress) -> Result<(Values, bool), TrainError> {
        if self.tasks.eval.is_empty() {
            return Ok((Values::new(), false));
        }
        let step = self.trainer.step;
        let evaluation = self.measure(progress, step)?;
        let is_best = self.state.best.is_none_or(|best| evaluation.is_better_than(&best.result));
        if is_best {
            self.state.best = Some(Best::of(&evaluation));
        }
        report::write(self.config, self.folder.root(), step)?;
        Ok((evaluation.values(), is_best))
    }

    /// Evaluates the policy after `step` steps, whose weights the newest engine has.
    fn measure(&self, progress: &dyn Progress, step: u64) -> Result<Evaluation, TrainError> {
        let done = self.trainer.step;
        let rollouts = self.rollouts.newest(done);
        let evaluation = Evaluation::run(&self.config.outage, &self.tasks, rollouts, done);
        let evaluation = wait(&self.runtime, progress, evaluation);
        let evaluation = evaluation.unwrap_or(Err(TrainError::Interrupted(done)))?;
        let evaluation = Evaluation { step, basis: Some(self.basis), ..evaluation };
        evaluation.save(self.folder.root())?;
        Ok(evaluation)
    }
}
