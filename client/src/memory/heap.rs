//! What the allocator says of itself.

/// Bytes of the heap; `None` where the allocator does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heap {
    pub(super) used: Option<u64>,
    pub(super) committed: Option<u64>,
}

/// jemalloc's own figures, after it was told to bring them up to date.
#[cfg(feature = "jemalloc")]
pub(super) fn heap() -> Heap {
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
#[cfg(all(not(feature = "jemalloc"), target_os = "linux", target_env = "gnu"))]
pub(super) fn heap() -> Heap {
    malloc_info::malloc_info().map_or_else(|_| Heap::default(), |info| from_glibc(&info))
}

#[cfg(not(any(feature = "jemalloc", all(target_os = "linux", target_env = "gnu"))))]
pub(super) fn heap() -> Heap {
    Heap::default()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[cfg_attr(feature = "jemalloc", allow(dead_code))]
fn from_glibc(info: &malloc_info::info::Malloc) -> Heap {
    use malloc_info::info::{SystemType, TotalType};
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

    #[test]
    #[cfg_attr(
        not(any(feature = "jemalloc", all(target_os = "linux", target_env = "gnu"))),
        ignore = "this allocator tells nothing"
    )]
    fn what_is_allocated_shows_and_goes_again() {
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
