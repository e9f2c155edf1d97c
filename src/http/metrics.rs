//! Prometheus metrics. Labels are bounded, and every series exists from the start.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::routes;
use crate::episode::{Episode, EpisodeError, EpisodeUsage, FinishReason};
use crate::large_model::{AttemptObserver, AttemptOutcome};
use crate::record::RecordCounts;
use crate::trajectory::TokenUsage;

/// The label of all routes that are not distinguished.
pub(super) const OTHER: &str = "other";
const STATUSES: [u16; 13] = [200, 400, 401, 403, 404, 405, 408, 413, 429, 500, 502, 503, 504];
/// The role of tokens that were used by no episode.
const PASSED_THROUGH: &str = "passed_through";
/// Neither answered, limited nor cancelled.
const FAILED: &str = "error";
/// Given up by its caller, who may not see it: no failure.
const CANCELLED: &str = "cancelled";
const RELOADED: &str = "success";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRole {
    role: &'static str,
    kind: &'static str,
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    finish_reason: &'static str,
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPolicy {
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVersion {
    version: &'static str,
}

type Histograms = Family<ByRoute, Histogram, fn() -> Histogram>;

/// All series.
pub struct Metrics {
    registry: Registry,
    requests: Family<ByStatus, Counter>,
    durations: Histograms,
    overheads: Histograms,
    first_tokens: Histograms,
    attempts: Family<ByOutcome, Counter>,
    tokens: Family<ByRole, Counter>,
    turns: Family<ByPolicy, Histogram, fn() -> Histogram>,
    episodes: Family<ByReason, Counter>,
    in_flight: Gauge,
    waiting: Gauge,
    disconnects: Counter,
    reloads: Family<ByResult, Counter>,
    records: Family<ByResult, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    ])
}

fn overhead_seconds() -> Histogram {
    Histogram::new([50e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 0.25])
}

fn turns() -> Histogram {
    Histogram::new((1..=10).chain([12, 14, 16]).map(f64::from))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            overheads: Family::new_with_constructor(overhead_seconds),
            first_tokens: Family::new_with_constructor(seconds),
            attempts: Family::default(),
            tokens: Family::default(),
            turns: Family::new_with_constructor(turns),
            episodes: Family::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            disconnects: Counter::default(),
            reloads: Family::default(),
            records: Family::default(),
        };
        metrics.start_at_zero();
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn start_at_zero(&self) {
        for route in routes::names().chain([OTHER]) {
            let by_route = ByRoute { route };
            drop(self.durations.get_or_create(&by_route));
            drop(self.overheads.get_or_create(&by_route));
            drop(self.first_tokens.get_or_create(&by_route));
            for status in STATUSES {
                drop(self.requests.get_or_create(&ByStatus { route, status }));
            }
        }
        for outcome in ["success", "status", "unreachable", "timeout", "malformed", "cancelled"] {
            let codes: &[&str] = match outcome {
                "status" => &["400", "401", "404", "429", "500", "502", "503"],
                _ => &[""],
            };
            for code in codes {
                let code = (*code).to_owned();
                drop(self.attempts.get_or_create(&ByOutcome { outcome, code }));
            }
        }
        self.passed_through(TokenUsage::default());
        for result in [RELOADED, FAILED] {
            drop(self.reloads.get_or_create(&ByResult { result }));
        }
    }

    /// Starts the series of a policy at zero.
    pub(super) fn begin_policy(&self, policy: &str) {
        for role in ["policy", "large_model"] {
            self.count_tokens(role, policy, TokenUsage::default());
        }
        let policy = policy.to_owned();
        let reasons = FinishReason::ALL.map(FinishReason::as_str);
        for finish_reason in reasons.into_iter().chain([FAILED, CANCELLED]) {
            let by_reason = ByReason { finish_reason, policy: policy.clone() };
            drop(self.episodes.get_or_create(&by_reason));
        }
        drop(self.turns.get_or_create(&ByPolicy { policy }));
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let mut info = |name: &str, help: &str, metric: Box<dyn Metric>| {
            metric.register(registry, name, help);
        };
        info("requests", "Requests by route and status", Box::new(self.requests.clone()));
        info(
            "request_duration_seconds",
            "Time from a request to the end of its response",
            Box::new(self.durations.clone()),
        );
        info(
            "overhead_seconds",
            "Time of a request spent outside of both models",
            Box::new(self.overheads.clone()),
        );
        info(
            "time_to_first_token_seconds",
            "Time to the first piece of a streamed answer",
            Box::new(self.first_tokens.clone()),
        );
        info(
            "upstream_attempts",
            "Attempts to call a large model, by outcome and error status",
            Box::new(self.attempts.clone()),
        );
        info("tokens", "Tokens used, by role, kind and policy", Box::new(self.tokens.clone()));
        info("episode_turns", "Turns per episode, by policy", Box::new(self.turns.clone()));
        info("episodes", "Episodes by finish reason and policy", Box::new(self.episodes.clone()));
        info("episodes_in_flight", "Episodes in progress", Box::new(self.in_flight.clone()));
        info(
            "requests_waiting",
            "Requests queued until their episodes can start",
            Box::new(self.waiting.clone()),
        );
        info(
            "client_disconnects",
            "Clients that disconnected before their response was complete",
            Box::new(self.disconnects.clone()),
        );
        info("reloads", "Reloads of the configuration, by result", Box::new(self.reloads.clone()));
        info("records", "Episodes to be recorded, by result", Box::new(self.records.clone()));
        let build: Family<ByVersion, Gauge> = Family::default();
        build.get_or_create(&ByVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        info("build_info", "The running version", Box::new(build));
    }

    /// All series in Prometheus's text format. `recorded`: outcomes of the records of episodes;
    /// `in_flight` and `waiting`: running episodes, and queued requests.
    pub(super) fn render(
        &self,
        recorded: Option<RecordCounts>,
        (in_flight, waiting): (usize, usize),
    ) -> String {
        self.in_flight.set(in_flight as i64);
        self.waiting.set(waiting as i64);
        let RecordCounts { written, dropped } = recorded.unwrap_or_default();
        for (result, count) in [("written", written), ("dropped", dropped)] {
            let counter = self.records.get_or_create(&ByResult { result });
            // The recorder counts on its own thread.
            counter.inner().store(count, Ordering::Relaxed);
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    pub(super) fn request(&self, route: &'static str, status: u16) {
        // Upstreams may send any status.
        let status = if STATUSES.contains(&status) { status } else { status / 100 * 100 };
        self.requests.get_or_create(&ByStatus { route, status }).inc();
    }

    pub(super) fn duration(&self, route: &'static str, elapsed: Duration) {
        self.durations.get_or_create(&ByRoute { route }).observe(elapsed.as_secs_f64());
    }

    pub(super) fn overhead(&self, route: &'static str, elapsed: Duration) {
        self.overheads.get_or_create(&ByRoute { route }).observe(elapsed.as_secs_f64());
    }

    pub(super) fn first_token(&self, route: &'static str, elapsed: Duration) {
        self.first_tokens.get_or_create(&ByRoute { route }).observe(elapsed.as_secs_f64());
    }

    pub(super) fn disconnect(&self) {
        self.disconnects.inc();
    }

    /// Counts a reload of the configuration.
    pub fn reload(&self, is_done: bool) {
        let result = if is_done { RELOADED } else { FAILED };
        self.reloads.get_or_create(&ByResult { result }).inc();
    }

    pub(super) fn episode(&self, policy: &str, result: &Result<Episode, EpisodeError>) {
        match result {
            Ok(episode) => {
                let turns = episode.trajectory.turns.len() as f64;
                let policy_label = ByPolicy { policy: policy.to_owned() };
                self.turns.get_or_create(&policy_label).observe(turns);
                self.ended(policy, episode.finish_reason.as_str(), &episode.usage);
            }
            Err(error) if error.kind.is_cancelled() => self.cancelled(policy, &error.usage),
            Err(error) => self.ended(policy, FAILED, &error.usage),
        }
    }

    /// Counts an episode whose client left, by what it has used.
    pub(super) fn cancelled(&self, policy: &str, usage: &EpisodeUsage) {
        self.ended(policy, CANCELLED, usage);
    }

    fn ended(&self, policy: &str, finish_reason: &'static str, usage: &EpisodeUsage) {
        self.count_tokens("policy", policy, usage.policy.tokens);
        self.count_tokens("large_model", policy, usage.large_model.tokens);
        self.episodes.get_or_create(&ByReason { finish_reason, policy: policy.to_owned() }).inc();
    }

    /// Counts the tokens of a passed-through request.
    pub(super) fn passed_through(&self, usage: TokenUsage) {
        self.count_tokens(PASSED_THROUGH, "", usage);
    }

    fn count_tokens(&self, role: &'static str, policy: &str, usage: TokenUsage) {
        let count = |kind, tokens| {
            let by_role = ByRole { role, kind, policy: policy.to_owned() };
            self.tokens.get_or_create(&by_role).inc_by(tokens);
        };
        count("prompt", usage.prompt_tokens);
        count("completion", usage.completion_tokens);
    }
}

impl AttemptObserver for Metrics {
    fn attempt(&self, _model: &str, outcome: AttemptOutcome, _elapsed: Duration) {
        let code = outcome.code().map(|code| code.to_string()).unwrap_or_default();
        self.attempts.get_or_create(&ByOutcome { outcome: outcome.label(), code }).inc();
    }
}

/// Anything that can be registered under the common prefix.
trait Metric {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric> Metric for M {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str) {
        registry.register(format!("prompt_r1_{name}"), help, *self);
    }
}
