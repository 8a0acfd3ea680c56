//! The guide's rules on a heap that rises and falls, with a receiver of our own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tagcache_admin::alerts::{Alerts, Config};
use tagcache_admin::memory::{MemoryMonitor, Sample, Source};

use crate::alerts::guide_rules;
use crate::output::Failure;

/// Percent of the heap, the states of the two rules then, and the messages that must follow. The states are checked
/// because a wrong message may arrive later.
const STEPS: [(u64, [&str; 2], &[&str]); 7] = [
    (84, ["quiet", "quiet"], &[]),
    (85, ["quiet", "quiet"], &[]),
    (86, ["firing", "quiet"], &["firing High Memory Usage"]),
    (95, ["firing", "quiet"], &[]),
    (96, ["firing", "firing"], &["firing Critical Memory Usage"]),
    (95, ["firing", "quiet"], &["resolved Critical Memory Usage"]),
    (85, ["quiet", "quiet"], &["resolved High Memory Usage"]),
];
const DEADLINE: Duration = Duration::from_secs(10);

type Messages = Arc<Mutex<Vec<String>>>;

struct Heap(Arc<Mutex<u64>>);

impl Source for Heap {
    fn read(&mut self, sample: &mut Sample) {
        let percent = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sample.memory.heap_used = Some(percent);
        sample.memory.limit = Some(100);
    }
}

/// An inner `Err` describes a fault of the alerts; a [`Failure`], that they could not be tested.
pub(super) fn check() -> Result<Result<String, String>, Failure> {
    let messages: Messages = Arc::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
    let url = format!("http://{}/", listener.local_addr()?);
    let receiver = Router::new()
        .route("/", post(receive))
        .with_state(Arc::clone(&messages));
    runtime.spawn(async move { axum::serve(listener, receiver).await });

    let channels = format!("channels:\n  hook: {{type: webhook, url: '{url}'}}\n");
    let rules = channels + &guide_rules("hook");
    let alerts = Alerts::builder(Config::from_yaml(&rules)?).start()?;
    let percent = Arc::new(Mutex::new(0));
    let monitor = MemoryMonitor::builder(Heap(Arc::clone(&percent)))
        .interval(Duration::from_secs(3600))
        .start()
        .map_err(|error| Failure::Because(error.to_string()))?;
    let mut expected: Vec<String> = Vec::new();
    let mut result =
        Ok("85% quiet, 86% warning, 95% no more, 96% critical; 95% and 85% resolved".to_owned());
    for (heap, states, sent) in STEPS {
        *percent.lock().unwrap_or_else(PoisonError::into_inner) = heap;
        alerts.observe(&monitor.sample_now());
        expected.extend(sent.iter().map(|&message| message.to_owned()));
        let rules = alerts.rules();
        let found: Vec<_> = rules.iter().map(|rule| rule.state).collect();
        if found != states {
            result = Err(format!(
                "at {heap}%: the rules are {found:?}, not {states:?}"
            ));
            break;
        }
        if let Err(error) = wait_for(&messages, &expected) {
            result = Err(format!("at {heap}%: {error}"));
            break;
        }
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result)
}

/// The messages may come in any order within a step.
fn wait_for(messages: &Messages, expected: &[String]) -> Result<(), String> {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    let start = Instant::now();
    loop {
        let seen = messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if sorted(&seen) == sorted(expected) {
            return Ok(());
        }
        if seen.len() > expected.len() || start.elapsed() > DEADLINE {
            return Err(format!("told {seen:?}, expected {expected:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn receive(State(messages): State<Messages>, Json(message): Json<Value>) {
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    let line = format!("{} {}", text("phase"), text("name"));
    messages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

pub(super) fn check_file(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let config = Config::from_yaml(&text).map_err(|error| error.to_string())?;
    let rules = config.rule_names().len();
    Alerts::builder(config)
        .check()
        .map_err(|error| error.to_string())?;
    Ok(format!("{rules} rules"))
}
