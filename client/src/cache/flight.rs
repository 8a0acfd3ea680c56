//! Single flight: of all who miss a key at the same time in this process, one loads and the others get its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::remote::Error;

use super::coherence::{Outcome, Read};
use super::tier::{Local, Stored};

/// What a load answers to all who wait for it.
pub(crate) type Landed = Result<Landing, Error>;

/// A value that was found or loaded.
#[derive(Clone, Debug)]
pub(crate) struct Landing {
    pub(crate) stored: Stored,
    /// The tags that the value was found with on a server; none for one that was loaded.
    tags: Arc<[String]>,
}

/// The loads under way.
#[derive(Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Box<str>, Arc<Flight>>>,
    /// How many pilots there are: loads go on behind their answers.
    pilots: watch::Sender<usize>,
}

struct Flight {
    landed: watch::Receiver<Option<Landed>>,
    /// Since when nothing may have been said about the key, or else its value is too old for who comes now.
    since: Read<Local>,
    tags: Vec<String>,
}

/// Who asks for a key.
pub(crate) enum Seat {
    /// Somebody loads it already.
    Passenger(Passenger),
    /// Nobody does, or what is being loaded is outdated already: the caller shall.
    Pilot(Pilot),
}

/// Waits for what somebody else loads.
pub(crate) struct Passenger(Arc<Flight>);

/// The right and the duty to load a key. Dropped without an answer, its passengers get none.
pub(crate) struct Pilot {
    flights: Arc<Flights>,
    key: Box<str>,
    flight: Arc<Flight>,
    land: watch::Sender<Option<Landed>>,
}

impl Landing {
    /// A value that a server had, with these tags.
    pub(crate) fn found(stored: Stored, tags: Vec<String>) -> Self {
        Self {
            stored,
            tags: tags.into(),
        }
    }

    /// A value that a loader answered, or that is served without a server.
    pub(crate) fn loaded(stored: Stored) -> Self {
        Self::found(stored, Vec::new())
    }
}

impl Flights {
    /// A seat for `key`; `since` is a read of it that has just begun.
    pub(crate) fn board(
        self: &Arc<Self>,
        key: &str,
        tags: &[String],
        since: impl FnOnce() -> Read<Local>,
    ) -> Seat {
        let mut under_way = self.lock();
        if let Some(flight) = under_way.get(key)
            && flight.since.is_current(&flight.tags)
        {
            return Seat::Passenger(Passenger(Arc::clone(flight)));
        }
        let (land, landed) = watch::channel(None);
        let flight = Arc::new(Flight {
            landed,
            since: since(),
            tags: tags.to_vec(),
        });
        under_way.insert(key.into(), Arc::clone(&flight));
        self.pilots.send_modify(|pilots| *pilots += 1);
        Seat::Pilot(Pilot {
            flights: Arc::clone(self),
            key: key.into(),
            flight,
            land,
        })
    }

    /// Returns when no load is under way.
    pub(crate) async fn ended(&self) {
        let mut pilots = self.pilots.subscribe();
        // The sender lives as long as these flights.
        let _ = pilots.wait_for(|&pilots| pilots == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Flight>>> {
        // A map is whole after every operation on it.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pilot {
    /// A seat beside the pilot.
    pub(crate) fn seat(&self) -> Passenger {
        Passenger(Arc::clone(&self.flight))
    }

    /// Answers all who wait; whoever comes later starts anew. Only the first answer counts.
    pub(crate) fn land(&self, landed: Landed) {
        self.leave();
        self.land.send_if_modified(|answer| {
            let first = answer.is_none();
            if first {
                *answer = Some(landed);
            }
            first
        });
    }

    pub(crate) fn has_landed(&self) -> bool {
        self.land.borrow().is_some()
    }

    /// Lets `put` put the value into the local tier, unless something was said about it since the load began.
    pub(crate) fn enter(&self, tags: &[String], put: impl FnOnce(&Local)) -> Outcome {
        self.flight.since.enter(tags, put)
    }

    fn leave(&self) {
        let mut under_way = self.flights.lock();
        // A later flight may have taken the place of this one.
        if under_way
            .get(&*self.key)
            .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight))
        {
            under_way.remove(&*self.key);
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.leave();
        self.flights.pilots.send_modify(|pilots| *pilots -= 1);
    }
}

impl Passenger {
    /// Waits for the answer; `None` if the flight ended without one.
    pub(crate) async fn landed(&self) -> Option<Landed> {
        let mut landed = self.0.landed.clone();
        let answer = landed.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }

    /// Whether what was found may be had by one who boarded after the flight had begun. Its tags were not known
    /// then: one of them may have been invalidated before.
    pub(crate) fn may_have(&self, landing: &Landing) -> bool {
        landing.tags.is_empty() || self.0.since.is_current(&landing.tags)
    }
}

#[cfg(test)]
mod tests {
    use super::super::coherence::{Coherence, Ordering};
    use super::super::tier::WhenLost;
    use super::*;

    #[tokio::test]
    async fn a_passenger_may_not_have_what_was_invalidated_by_a_tag_that_only_the_value_has() {
        let local = Local::new(10, None, WhenLost::Drop);
        let coherence = Arc::new(Coherence::new(local, Ordering::Kept));
        let flights = Arc::new(Flights::default());
        let board = || flights.board("key", &["mine".to_owned()], || coherence.begin("key"));
        let Seat::Pilot(pilot) = board() else {
            panic!("nobody else flies");
        };
        coherence.tags_invalidated(["theirs"]);
        let Seat::Passenger(late) = board() else {
            panic!("nothing is known against this flight");
        };
        let stored = Stored::new(Some(7), 1);
        pilot.land(Ok(Landing::found(stored, vec!["theirs".to_owned()])));
        let landing = late.landed().await.expect("it has landed").unwrap();
        assert!(!late.may_have(&landing));
        assert!(late.may_have(&Landing::found(landing.stored, vec!["other".to_owned()])));
        // And by a tag that was known the flight is not even joined.
        let Seat::Pilot(_flight) = board() else {
            panic!("the first has landed");
        };
        coherence.tags_invalidated(["mine"]);
        assert!(matches!(board(), Seat::Pilot(_)));
    }
}
