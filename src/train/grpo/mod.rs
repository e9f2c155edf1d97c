//! GRPO: whole episodes are sampled in groups, and what did better than its group gets likelier.

mod advantage;
mod async_rollouts;
mod collect;
pub mod config;
mod evaluate;
mod failure;
mod guard;
mod judge;
mod learner;
mod objective;
mod report;
mod rollout;
mod run;
mod tasks;
mod token_servers;

pub use advantage::{Overlong, Scaling, advantages};
pub use collect::Sample;
pub use config::{GrpoConfig, LargeModelChoice, Preset, TaskConfig};
pub use evaluate::{ClassResult, Evaluation, Shown};
pub use guard::Guards;
pub use judge::JudgeChoice;
pub use learner::{Learner, StepFigures};
pub use objective::{
    Aggregation, Importance, KlEstimator, Objective, ObjectiveSums, SampledTokens, TokenGradients,
    UpdateSize,
};
pub use run::run_grpo;
pub use token_servers::GrpoModels;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
