//! Evaluates rules: snapshots in, messages out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::channel::{Channel, ChannelSpec, TIMEOUT};
use super::delivery::{ChannelFigures, Delivery, END, Retries};
use super::message::{Message, Phase, rfc3339};
use super::rules::{Config, ConfigError, Problem, Rule, Severity};
use super::state::{Change, RuleState, State};
use crate::memory::Snapshot;

type Env = Box<dyn Fn(&str) -> Option<String>>;

/// Settings of alerts; made by [`Alerts::builder`].
pub struct Builder {
    config: Config,
    instance: String,
    retries: Retries,
    env: Env,
}

impl Builder {
    /// Name of this process in messages. Default `tagcache`.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Retries of failed messages.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Looks up `{env: NAME}` and the variables of channels without a description. Default: the process's environment.
    #[must_use]
    pub fn env(mut self, env: impl Fn(&str) -> Option<String> + 'static) -> Self {
        self.env = Box::new(env);
        self
    }

    /// Checks that every channel that a rule names can be opened, including its secrets.
    ///
    /// # Errors
    /// Each channel that cannot be opened, with line and column.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.open().map(drop)
    }

    /// Reads the secrets and starts a thread for each channel that a rule names.
    ///
    /// # Errors
    /// Channels that cannot be opened, with line and column.
    pub fn start(self) -> Result<Alerts, ConfigError> {
        let mut channels = BTreeMap::new();
        for (name, channel) in self.open()? {
            let delivery = Delivery::start(&name, channel, self.retries).map_err(|error| {
                ConfigError(vec![Problem {
                    line: 0,
                    column: 0,
                    message: format!("no thread for channel `{name}`: {error}"),
                }])
            })?;
            channels.insert(name, delivery);
        }
        let rules = self.config.rules.into_iter();
        Ok(Alerts {
            started: Instant::now(),
            instance: self.instance,
            rules: Mutex::new(rules.map(|rule| (rule, RuleState::default())).collect()),
            channels,
        })
    }

    /// Sends one message that is marked as a test, without retries.
    ///
    /// # Errors
    /// The reason why it was not delivered.
    pub fn send_test(&self, channel: &str) -> Result<(), String> {
        let message = Message {
            name: "Test of the channel".into(),
            phase: Phase::Firing,
            severity: Severity::Info,
            condition: "tagcache alerts test".into(),
            values: Vec::new(),
            instance: self.instance.clone(),
            at: rfc3339(std::time::SystemTime::now()),
            key: format!("{}/test", self.instance),
        };
        let opened = self.spec(channel)?.open(&self.env)?;
        opened.send(&message).map_err(|failure| match failure {
            super::channel::Failure::Retry(error) | super::channel::Failure::Refused(error) => {
                error
            }
        })
    }

    fn spec(&self, name: &str) -> Result<ChannelSpec, String> {
        match self.config.channels.get(name) {
            Some(spec) => Ok(spec.clone()),
            None => ChannelSpec::of_environment(name, &self.env),
        }
    }

    fn open(&self) -> Result<BTreeMap<String, Box<dyn Channel>>, ConfigError> {
        let mut channels = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, location) in self.config.rules.iter().flat_map(|rule| &rule.channels) {
            if channels.contains_key(name) {
                continue;
            }
            match self.spec(name).and_then(|spec| spec.open(&self.env)) {
                Ok(channel) => {
                    channels.insert(name.clone(), channel);
                }
                Err(error) => {
                    problems.push(Problem::at(*location, format!("channel `{name}`: {error}")));
                }
            }
        }
        if problems.is_empty() {
            Ok(channels)
        } else {
            Err(ConfigError(problems))
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// Running rules. Stops when dropped: see [`Self::stop`].
pub struct Alerts {
    started: Instant,
    instance: String,
    rules: Mutex<Vec<(Rule, RuleState)>>,
    channels: BTreeMap<String, Delivery>,
}

/// State of a rule.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleFigures {
    /// The rule's name.
    pub name: String,
    /// The rule's severity.
    pub severity: Severity,
    /// The rule's condition.
    pub condition: String,
    /// `quiet`, `pending` (holds, but not long enough) or `firing`.
    pub state: &'static str,
    /// How long the rule has been pending or firing, in seconds.
    pub seconds: Option<f64>,
}

impl Alerts {
    /// Alerts by these rules, to be configured and started.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            instance: "tagcache".into(),
            retries: Retries::default(),
            env: Box::new(|name| std::env::var(name).ok()),
        }
    }

    /// Evaluates every rule on a snapshot; messages are sent in the background. O(rules).
    pub fn observe(&self, snapshot: &Snapshot) {
        let now = self.started.elapsed();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        for (rule, state) in rules.iter_mut() {
            let slack = if state.is_firing() {
                rule.hysteresis
            } else {
                0.0
            };
            let holds = rule.condition.holds(snapshot, slack);
            let phase = match state.step(now, holds, &rule.timing) {
                Some(Change::Fired | Change::Repeated) => Phase::Firing,
                Some(Change::Resolved) if rule.notify_resolved => Phase::Resolved,
                Some(Change::Resolved) | None => continue,
            };
            self.notify(rule, phase, snapshot);
        }
    }

    /// Accepts no more messages, and makes one more attempt to deliver those that wait, all channels at once, for 5 s
    /// and the attempt that is running then: 15 s at most. A second call does nothing.
    pub fn stop(&self) {
        for delivery in self.channels.values() {
            delivery.end();
        }
        let deadline = Instant::now() + END + TIMEOUT;
        for delivery in self.channels.values() {
            delivery.wait_until(deadline);
        }
    }

    /// The state of every rule, in the file's order.
    pub fn rules(&self) -> Vec<RuleFigures> {
        let now = self.started.elapsed();
        let seconds = |since: Duration| Some(now.saturating_sub(since).as_secs_f64());
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = |(rule, state): &(Rule, RuleState)| {
            let (state, seconds) = match state.state {
                State::Quiet => ("quiet", None),
                State::Pending { since } => ("pending", seconds(since)),
                State::Firing { since } => ("firing", seconds(since)),
            };
            RuleFigures {
                name: rule.name.clone(),
                severity: rule.severity,
                condition: rule.text.clone(),
                state,
                seconds,
            }
        };
        rules.iter().map(figures).collect()
    }

    /// Counts of each channel's messages.
    pub fn channels(&self) -> BTreeMap<String, ChannelFigures> {
        let figures = |(name, delivery): (&String, &Delivery)| (name.clone(), delivery.figures());
        self.channels.iter().map(figures).collect()
    }

    fn notify(&self, rule: &Rule, phase: Phase, snapshot: &Snapshot) {
        let mut values: Vec<(String, Option<f64>)> = Vec::new();
        for metric in rule.condition.metrics() {
            if values.iter().all(|(name, _)| name != metric.name) {
                values.push((metric.name.to_owned(), metric.read(snapshot)));
            }
        }
        let message = Message {
            name: rule.name.clone(),
            phase,
            severity: rule.severity,
            condition: rule.text.clone(),
            values,
            instance: self.instance.clone(),
            at: rfc3339(snapshot.latest.at),
            key: format!("{}/{}", self.instance, rule.name),
        };
        for (name, _) in &rule.channels {
            if let Some(delivery) = self.channels.get(name) {
                delivery.send(message.clone());
            }
        }
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alerts")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}
