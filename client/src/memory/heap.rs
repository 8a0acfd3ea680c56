//! The allocator's own figures.

use std::hint::black_box;
use std::sync::OnceLock;

/// Bytes of the heap; `None` if the allocator has no such figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heap {
    pub(super) used: Option<u64>,
    pub(super) committed: Option<u64>,
}

/// Returns the function that reads this process's allocator.
///
/// The first call finds out whether jemalloc or glibc provides this process's memory: an allocator that is linked in
/// but not used returns figures, too, but they have nothing to do with the process.
pub(super) fn reader() -> fn() -> Heap {
    static READER: OnceLock<fn() -> Heap> = OnceLock::new();
    *READER.get_or_init(|| {
        let known: &[fn() -> Heap] = &[
            #[cfg(feature = "jemalloc")]
            jemalloc,
            #[cfg(all(target_os = "linux", target_env = "gnu"))]
            glibc,
        ];
        let used = known.iter().find(|read| is_used(read));
        *used.unwrap_or(&(Heap::default as fn() -> Heap))
    })
}

/// Whether allocations of this process show in these figures.
fn is_used(read: impl Fn() -> Heap) -> bool {
    // Never written to, so it costs address space only; larger than what other threads are likely to free meanwhile.
    const PROBE: usize = 64 * 1024 * 1024;
    (0..3).any(|_| {
        let Some(before) = read().used else {
            return false;
        };
        let mut probe: Vec<u8> = Vec::new();
        if probe.try_reserve_exact(PROBE).is_err() {
            return false;
        }
        let with = read().used;
        drop(black_box(probe));
        with.is_some_and(|with| with >= before + PROBE as u64 / 2)
    })
}

/// jemalloc's own figures, after they were brought up to date.
#[cfg(feature = "jemalloc")]
fn jemalloc() -> Heap {
    use tikv_jemalloc_ctl::{epoch, stats};
    if epoch::advance().is_err() {
        return Heap::default();
    }
    Heap {
        used: stats::allocated::read().ok().map(|n| n as u64),
        committed: stats::resident::read().ok().map(|n| n as u64),
    }
}

/// glibc's figures over all arenas. Walks the free lists under each arena's lock: its cost grows with the number of
/// free chunks, not with the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn glibc() -> Heap {
    use malloc_info::info::{SystemType, TotalType};
    let Ok(info) = malloc_info::malloc_info() else {
        return Heap::default();
    };
    let total = |kind: TotalType| {
        let found = info.total.iter().find(|total| total.r#type == kind);
        found.map(|total| total.size as u64)
    };
    let arenas = info
        .system
        .iter()
        .find(|system| system.r#type == SystemType::Current)
        .map(|system| system.size as u64);
    let mapped = total(TotalType::Mmap).unwrap_or(0);
    let free = total(TotalType::Fast)
        .zip(total(TotalType::Rest))
        .map(|(fast, rest)| fast + rest);
    Heap {
        used: arenas
            .zip(free)
            .map(|(arenas, free)| arenas.saturating_sub(free) + mapped),
        committed: arenas.map(|arenas| arenas + mapped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap() -> Heap {
        reader()()
    }

    #[test]
    fn unused_allocator_is_detected() {
        let another = || Heap {
            used: Some(4096),
            committed: Some(8192),
        };
        assert!(!is_used(another));
        assert!(!is_used(Heap::default));
        let all = std::cell::Cell::new(0);
        let grows = || {
            all.set(all.get() + 64 * 1024 * 1024);
            Heap {
                used: Some(all.get()),
                committed: None,
            }
        };
        assert!(is_used(grows));
    }

    #[test]
    #[cfg_attr(
        not(any(feature = "jemalloc", all(target_os = "linux", target_env = "gnu"))),
        ignore = "this allocator has no figures"
    )]
    fn heap_figures_follow_allocations() {
        // Large and in many pieces: far more than other tests allocate meanwhile.
        const PIECES: usize = 4000;
        const PIECE: usize = 16 * 1024;
        let grown = (PIECES * PIECE) as u64;
        let before = heap().used.unwrap();
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE]).collect();
        let during = heap();
        assert!(during.used.unwrap() >= before + grown / 2, "{during:?}");
        assert!(during.committed >= during.used, "{during:?}");
        drop(pieces);
        assert!(heap().used.unwrap() < during.used.unwrap() - grown / 2);
    }
}
