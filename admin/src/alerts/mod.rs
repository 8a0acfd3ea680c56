//! Alerts: rules over every metric, reported to a log, webhooks, Slack, PagerDuty and by mail.
//!
//! ```yaml
//! channels:
//!   slack:     {type: slack, url: {env: SLACK_URL}}
//!   pagerduty: {type: pagerduty, routing_key: {file: /run/secrets/pagerduty}}
//!   email:
//!     type: email
//!     host: smtp.example.org       # port: 587; tls: starttls (default), implicit or none
//!     username: cache
//!     password: {env: SMTP_PASSWORD}
//!     from: cache@example.org
//!     to: [ops@example.org]
//!   hook:      {type: webhook, url: "https://example.org/hook", headers: {Authorization: {env: HOOK_AUTH}}}
//!
//! alerts:
//!   - name: High Memory Usage
//!     condition: memory.heapPercent > 85
//!     severity: warning            # info, warning, error, critical
//!     channels: [email, slack]     # none: the rule is only shown
//!     for: 5m                      # must hold so long; default 0s
//!     hysteresis: 5                # in the metric's unit: ends at 80; default 0
//!     cooldown: 10m                # no new alarm so soon after the last one ended; default 5m
//!     repeat: 4h                   # reported again while it fires; 0s: not; default 4h
//!     resolve: true                # report when it ends; default true
//! ```
//!
//! A condition compares metrics ([`METRICS`](crate::memory::METRICS) lists them) with `>`, `>=`, `<`, `<=`, `==` or
//! `!=` and combines with `and`, `or` and parentheses. Numbers may carry a unit of the metric: `memory.rss > 1.5 GB`.
//! A metric whose value is unknown neither starts nor ends an alarm.
//!
//! The channel `log` (a line on standard error) always exists. `email`, `slack` and `pagerduty` need no description if
//! the environment has one: `TAGCACHE_SLACK_URL`; `TAGCACHE_PAGERDUTY_KEY`; `TAGCACHE_SMTP_HOST` (`host` or
//! `host:port`), `TAGCACHE_SMTP_FROM`, `TAGCACHE_SMTP_TO` (with commas), `TAGCACHE_SMTP_USERNAME`,
//! `TAGCACHE_SMTP_PASSWORD` and `TAGCACHE_SMTP_TLS`. The file contains no secrets, and secrets are never logged. Every
//! mistake in a file is an error with line and column before anything starts.
//!
//! ```
//! use std::sync::Arc;
//! use tagcache_admin::alerts::{Alerts, Config};
//! use tagcache_admin::memory::{Event, MemoryMonitor, ProcessSource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = "alerts:\n  - {name: High Memory, condition: memory.heapPercent > 85, severity: warning, channels: [log]}";
//! let alerts = Arc::new(Alerts::builder(Config::from_yaml(rules)?).instance("web-1").start()?);
//! let watching = Arc::clone(&alerts);
//! let monitor = MemoryMonitor::builder(ProcessSource::default())
//!     .on_event(move |event| {
//!         if let Event::Sample(snapshot) = event {
//!             watching.observe(snapshot);
//!         }
//!     })
//!     .start()?;
//! # drop(monitor);
//! # Ok(())
//! # }
//! ```

mod channel;
mod condition;
mod delivery;
mod engine;
mod export;
mod message;
mod rules;
mod secret;
mod state;
#[cfg(test)]
pub(crate) mod testing;

pub use delivery::{ChannelFigures, Retries};
pub use engine::{Alerts, Builder, RuleFigures};
pub use message::{Message, Phase};
pub use rules::{Config, ConfigError, Problem, Severity};
