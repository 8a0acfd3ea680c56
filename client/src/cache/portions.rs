//! Cuts long lists into portions: servers bound the bytes that they hold for a client and send to a subscriber.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one command, and of the replies that are requested at a time. A server closes a subscriber's connection
/// with 8 MB waiting for a minute, or 32 MB (`client-output-buffer-limit pubsub`).
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// Cuts `items` into portions of at most `most` items and [`MOST_BYTES`]; a heavier item is alone.
pub(crate) fn portions<T>(
    mut items: &[T],
    most: usize,
    bytes: impl Fn(&T) -> usize,
) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |item: &&T| {
            sum += bytes(item);
            sum <= MOST_BYTES
        };
        let count = items.iter().take(most).take_while(fits).count();
        let (portion, rest) = items.split_at(count.max(1).min(items.len()));
        items = rest;
        (!portion.is_empty()).then_some(portion)
    })
}

/// How many values to request at a time, learnt from earlier replies.
#[derive(Debug)]
pub(crate) struct ReplySize(AtomicUsize);

impl Default for ReplySize {
    fn default() -> Self {
        // Before the first reply: 64 values at a time.
        Self(AtomicUsize::new(4 * MOST_BYTES / 64))
    }
}

impl ReplySize {
    /// The number of values that are likely to add up to 4 MB.
    pub(crate) fn portion(&self) -> usize {
        (4 * MOST_BYTES / self.0.load(Ordering::Relaxed).max(1)).clamp(1, 1024)
    }

    /// Records that `values` values had `bytes` bytes in all.
    pub(crate) fn learn(&self, values: usize, bytes: usize) {
        if let Some(size) = bytes.checked_div(values) {
            self.0.store(size, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_limited_in_items_and_bytes_and_complete() {
        let sizes = [1, 2, MOST_BYTES, MOST_BYTES + 1, 3, 4, 5, 6];
        let cut: Vec<Vec<usize>> = portions(&sizes, 3, |&size| size)
            .map(<[usize]>::to_vec)
            .collect();
        let expected = vec![
            vec![1, 2],
            vec![MOST_BYTES],
            vec![MOST_BYTES + 1],
            vec![3, 4, 5],
            vec![6],
        ];
        assert_eq!(cut, expected);
        assert_eq!(portions(&[0_u8; 0], 3, |_| 1).count(), 0);
    }

    #[test]
    fn batch_size_shrinks_for_large_values() {
        let size = ReplySize::default();
        assert_eq!(size.portion(), 64);
        size.learn(10, 10 << 20);
        assert_eq!(size.portion(), 4);
        size.learn(4, 400);
        assert_eq!(size.portion(), 1024);
        size.learn(0, 0);
        size.learn(1, 1 << 30);
        assert_eq!(size.portion(), 1);
    }
}
