//! GRPO: whole episodes are sampled in groups, and those better than their group become likelier.

mod advantage;
mod async_rollouts;
mod collect;
pub mod config;
mod evaluate;
mod failure;
mod figures;
mod guard;
mod judge;
mod learner;
mod local;
mod objective;
mod outage;
mod preset;
mod report;
mod rollout;
mod run;
mod samples;
mod step_files;
mod tasks;
pub mod tinker;
mod token_servers;
mod trainer;
mod update;

pub use advantage::{Overlong, Scaling, advantages};
pub use collect::Sample;
pub use config::{GrpoConfig, Guards, JudgeChoice, SampleConfig, TaskConfig, TrainerConfig};
pub use evaluate::{ClassResult, Evaluation, SampleEpisode};
pub use failure::Cause;
pub use figures::StepFigures;
pub use learner::{Learner, TraceScores};
pub use objective::{
    Aggregation, Importance, KlEstimator, Objective, ObjectiveSums, SampledTokens, TokenGradients,
    UpdateSize,
};
pub use preset::Preset;
pub use run::{Services, run_grpo};
pub use trainer::Trainer;
pub use update::Update;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
