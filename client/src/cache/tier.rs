//! The local tier as the two-tier cache uses it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::local::LocalCache;
use crate::observe::event;
use crate::remote::{Listener, Push};

use super::options::Options;
use super::stats::Counters;

/// A decoded value or an [`Absent`], as the local tier holds it and loads return it.
pub(crate) type Stored = Arc<Held>;
pub(crate) type Held = dyn Any + Send + Sync;

/// Stands for a value that the loader did not find.
struct Absent;

/// A decoded value, or its known absence.
pub(crate) fn stored<T: Any + Send + Sync>(value: Option<T>) -> Stored {
    match value {
        Some(value) => Arc::new(value),
        None => Arc::new(Absent),
    }
}

pub(crate) fn is_absent(stored: &Stored) -> bool {
    stored.is::<Absent>()
}

/// The value, or `Some(None)` for a known absence; `None` if it is not a `T`.
#[inline]
pub(crate) fn value<T: Any + Clone>(stored: &Stored) -> Option<Option<T>> {
    match stored.downcast_ref::<T>() {
        Some(value) => Some(Some(value.clone())),
        None => is_absent(stored).then_some(None),
    }
}

/// Applies the servers' pushes to the local tier, on the driver of a connection. `DESIGN.md`, section "Order". Keys
/// lose their namespace; tags keep it, because other clients' tags have none.
pub(crate) fn listener(
    local: LocalCache<Held>,
    counters: Arc<Counters>,
    options: &Options,
) -> Listener {
    let (prefix, keeps_stale) = (options.prefix.clone(), !options.stale_bound.is_zero());
    let probes = options.timeouts;
    // One second more than it takes to give up a connection: after that, the process or its runtime stands still.
    let trusted_for = probes.probe_interval + probes.probe + Duration::from_secs(1);
    Arc::new(move |push| match push {
        Push::Keys(keys) => {
            counters.keys_pushed.add(keys.len() as u64);
            for key in texts(keys) {
                // Other keys are not in this tier.
                if let Some(key) = key.strip_prefix(&prefix) {
                    local.remove(key);
                }
            }
        }
        Push::Tags(_, tags) => {
            counters.tags_pushed.add(tags.len() as u64);
            local.invalidate_tags(texts(tags));
        }
        Push::Everything => {
            local.forget_all();
            let why = "the server said that everything changed";
            event!(info, "local tier dropped", why = why);
        }
        Push::Lost => {
            counters.connections_lost.up();
            if keeps_stale {
                local.revalidate_all();
            } else {
                local.forget_all();
            }
            event!(info, "local tier dropped", why = "connection lost");
        }
        // Entries from before the connection: their invalidations may have been missed.
        Push::Restored => {
            local.forget_all();
            local.trust_until(Instant::now() + trusted_for);
        }
        Push::CaughtUp(at) => local.trust_until(*at + trusted_for),
        Push::Nothing => {}
    })
}

/// The names that are UTF-8: keys and tags of this tier always are, so other names concern none of its entries.
fn texts<'a>(names: &'a [&'a [u8]]) -> impl Iterator<Item = &'a str> {
    let texts = names.iter().map(|name| std::str::from_utf8(name));
    texts.filter_map(Result::ok)
}
