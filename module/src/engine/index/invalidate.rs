//! Invalidating, hard and soft, and giving back what became gone.

use std::collections::VecDeque;

use roaring::RoaringBitmap;

use super::{Effect, Index, Moment, REMEMBER_TAGS, Step};
use crate::engine::lists::{History, ListRef};
use crate::engine::marks::Marks;
use crate::engine::slots::Slot;

/// So many lists in the backlog are united, so that a flush counts each entry once.
const MANY_LISTS: usize = 65_536;

impl History {
    pub(super) fn invalidated(&mut self, moment: Moment, effect: Effect) {
        self.clock = moment.clock;
        self.remember_until_ms = moment.remember_until_ms;
        match effect {
            Effect::Gone => self.hard_ms = moment.now_ms,
            Effect::Stale => self.soft_ms = moment.now_ms,
        }
    }
}

impl<E: Copy + PartialEq> Index<E> {
    /// Whether entries may have been invalidated since, whatever tags they carry.
    pub(crate) fn is_invalidated_by_condition_after(&self, clock: u64) -> bool {
        self.concerns_all.clock > clock
    }

    /// When entries with one of these tags were last invalidated here, hard and soft, unix ms; 0: not that it is known.
    pub(crate) fn last_invalidated_ms<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
    ) -> (u64, u64) {
        let all = &self.concerns_all;
        tags.filter_map(|tag| self.find(self.table.hash(tag), tag))
            .map(|list| self.lists.get(list).past())
            .fold((all.hard_ms, all.soft_ms), |(hard, soft), past| {
                (hard.max(past.hard_ms), soft.max(past.soft_ms))
            })
    }

    /// Detaches a tag's list and returns how many entries were in it. O(1).
    pub(crate) fn invalidate(&mut self, tag: &[u8], moment: Moment) -> u64 {
        let list = self.list_of(tag, moment);
        self.last_hard_ms = moment.now_ms;
        let dropped = self.lists.get(list).ids.len();
        let current = if dropped == 0 {
            list
        } else {
            self.detach(list)
        };
        let history = self.remember(current, moment, Effect::Gone);
        history.invalidations = history.invalidations.saturating_add(1);
        history.last_ms = moment.now_ms;
        u64::from(dropped)
    }

    /// Makes the entries of a tag stale, those without a grace gone, and returns how many carry it.
    ///
    /// O(1) where none of them has a grace, else O(slots / 64).
    pub(crate) fn revalidate(&mut self, tag: &[u8], moment: Moment) -> u64 {
        let list = self.list_of(tag, moment);
        if self.lists.get(list).past().clock == moment.clock {
            return 0; // The tag was given twice.
        }
        let ids = self.lists.get(list).ids.to_bitmap();
        let graced = self.marks.graced_among(&ids);
        let current = if !ids.is_empty() && graced.is_empty() {
            self.detach(list)
        } else {
            self.marks.condemn(&(&ids - &graced));
            self.marks.soften(graced, moment.now_ms);
            list
        };
        let history = self.remember(current, moment, Effect::Stale);
        history.invalidations = history.invalidations.saturating_add(1);
        history.last_ms = moment.now_ms;
        ids.len()
    }

    /// Notes that entries of a tag were invalidated by another condition than the tag alone: for the holders of leases,
    /// and for entries that arrive.
    pub(super) fn note(&mut self, tag: &[u8], moment: Moment, effect: Effect) {
        let list = self.list_of(tag, moment);
        self.remember(list, moment, effect);
    }

    /// The list of a tag that is invalidated.
    ///
    /// A tag that is not known is remembered all the same: an entry that carries it may still be on its way here (its
    /// loader holds a lease, or a cluster moves it to this node after the node saw the invalidation).
    pub(super) fn list_of(&mut self, tag: &[u8], moment: Moment) -> u32 {
        self.forget_tags(moment.now_ms);
        let hash = self.table.hash(tag);
        self.find(hash, tag).unwrap_or_else(|| {
            let list = self.lists.create(tag.into(), hash, self.epoch);
            self.table.insert(hash, list);
            list
        })
    }

    /// Sees that a tag is remembered for its invalidation, also without entries.
    pub(super) fn remember(&mut self, id: u32, moment: Moment, effect: Effect) -> &mut History {
        let list = self.lists.get_mut(id);
        if !list.fading {
            list.fading = true;
            let generation = list.generation;
            self.fading.push_back(ListRef { id, generation });
        }
        let history = self.lists.history(id);
        history.invalidated(moment, effect);
        history
    }

    /// The database's clock after the last invalidation of a tag, if that may be later than `clock`: of a tag that is
    /// not remembered it is only known that it was no later than that of any other which was forgotten.
    pub(crate) fn is_invalidated_after(&self, tag: &[u8], clock: u64) -> bool {
        match self.find(self.table.hash(tag), tag) {
            Some(list) if self.lists.get(list).history.is_some() => {
                self.lists.get(list).past().clock > clock
            }
            // What was forgotten with the tag's last entry, or to make room, cannot be told any more.
            _ => self.horizon > clock,
        }
    }

    /// Moves the name to a new list and leaves the old one to the backlog. Returns the new one.
    pub(super) fn detach(&mut self, old: u32) -> u32 {
        let new = self.lists.renew(old);
        let list = self.lists.get_mut(old);
        list.detached = true;
        self.stale_pairs += u64::from(list.ids.len());
        self.stale_bytes += list.bytes;
        let hash = list.hash;
        self.populated -= 1;
        self.queue(old);
        self.table.replace(hash, old, new);
        new
    }

    /// Puts a detached list into the backlog: the newest first, so that a small tag that can be reclaimed inside the
    /// command does not wait behind a large one.
    pub(super) fn queue(&mut self, list: u32) {
        self.backlog.push_front(list);
        self.reclaim_from = 0;
    }

    /// Detaches everything and returns how many entries were visible. O(lists in the backlog).
    pub(crate) fn flush(&mut self) -> u64 {
        let visible = self.slots.len() as u64 - self.backlog_of(MANY_LISTS);
        // Tags are forgotten, but not that entries which are still on their way may carry an invalidated one.
        self.concerns_all.hard_ms = self.concerns_all.hard_ms.max(self.last_hard_ms);
        self.epoch = self.epoch.wrapping_add(1);
        self.table.clear();
        self.marks = Marks::default();
        self.since_flush = RoaringBitmap::new();
        self.untagged = None;
        self.backlog = VecDeque::new();
        self.fading = VecDeque::new();
        self.populated = 0;
        self.stale_pairs = 0;
        self.stale_bytes = 0;
        self.flushed = self.slots.len() as u64;
        self.flushed_bytes = self.bytes;
        self.sweep = (self.lists.end() > 0).then_some(0);
        self.reclaim_from = 0;
        visible
    }

    /// Forgets tags without entries whose last invalidation is long ago. Bounded work, amortised O(1) a call.
    pub(crate) fn forget_tags(&mut self, now_ms: u64) {
        for _ in 0..64 {
            let Some(&front) = self.fading.front() else {
                return;
            };
            let crowded = self.fading.len() > REMEMBER_TAGS;
            let Some(list) = self.lists.resolve(front) else {
                self.fading.pop_front();
                continue;
            };
            let due = list.past().remember_until_ms <= now_ms;
            let detached = list.detached;
            if !due && !crowded && !detached {
                // Invalidated again since it was queued: it may hide others behind it for a while, but no longer
                // than the time it is remembered itself.
                return;
            }
            self.fading.pop_front();
            list.fading = false;
            if !detached && list.ids.is_empty() {
                self.forget(front.id);
            }
        }
    }

    /// Whether entries or lists wait to be reclaimed. While not, every indexed entry is visible.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.sweep.is_some() || !self.marks.condemned().is_empty()
    }

    /// Whether [`Index::reclaim_step`] has something to do.
    pub(crate) fn has_work(&self, now_ms: u64) -> bool {
        self.has_backlog() || self.marks.has_due(now_ms)
    }

    /// The next thing to reclaim. O(1).
    pub(crate) fn reclaim_step(&mut self, now_ms: u64) -> Step {
        if let Some(&id) = self.backlog.front() {
            if let Some(slot) = self.next_in(id) {
                return Step::Gone(slot);
            }
            self.backlog.pop_front();
            self.lists.destroy(id);
            if self.backlog.is_empty() {
                self.backlog = VecDeque::new(); // Gives its memory back.
            }
            return Step::Working;
        }
        if let Some(id) = self.marks.condemned().min() {
            return Step::Gone(Slot(id));
        }
        let Some(from) = self.sweep else {
            let softened = self.marks.next_softened(now_ms);
            return softened.map_or(Step::Idle, Step::Softened);
        };
        match self.lists.next_in_page(from) {
            Err(next) if next < self.lists.end() => self.sweep = Some(next),
            Err(_) => {
                self.sweep = None;
                self.since_flush = RoaringBitmap::new();
            }
            Ok(id) => {
                let is_old = self.lists.get(id).epoch != self.epoch;
                if is_old && let Some(slot) = self.next_in(id) {
                    return Step::Gone(slot);
                }
                self.sweep = Some(id + 1);
                if is_old {
                    self.lists.destroy(id);
                }
            }
        }
        Step::Working
    }

    /// The lowest slot of the list that is being reclaimed. It is looked for from where the last one was found, since
    /// nothing is added to such a list.
    pub(super) fn next_in(&mut self, list: u32) -> Option<Slot> {
        let ids = &self.lists.get(list).ids;
        if ids.is_empty() {
            self.reclaim_from = 0;
            return None;
        }
        let slot = ids
            .range(self.reclaim_from)
            .next()
            .or_else(|| ids.range(0).next())?;
        self.reclaim_from = slot;
        Some(Slot(slot))
    }
}
