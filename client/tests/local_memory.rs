//! Compares the weight that the local tier reports with the allocator's figures. A program of its own, because the
//! allocator counts for the whole process.
#![cfg(all(feature = "monitor", target_os = "linux", target_env = "gnu"))]

use std::time::Duration;

use tagcache::{LocalCache, memory::MemoryUsage};

fn allocated() -> u64 {
    MemoryUsage::of_this_process()
        .heap_used
        .expect("glibc reports what is allocated")
}

#[test]
fn estimated_bytes_match_the_allocated_memory() {
    const ENTRIES: u64 = 50_000;
    for (tags, value_bytes) in [(0, 50), (2, 100), (2, 1000), (4, 4000)] {
        let before = allocated();
        let cache: LocalCache<Vec<u8>> = LocalCache::builder()
            .max_entries(ENTRIES as usize * 5 / 4)
            .weigher(|_, value: &Vec<u8>| (size_of_val(value) + value.capacity()) as u64)
            .build();
        for i in 0..ENTRIES {
            let tags = (0..tags).map(|tag| ["users", "pages", "tenant:7", "kind:page"][tag]);
            cache.set(
                &format!("page:{i:08}"),
                vec![7; value_bytes],
                Duration::MAX,
                tags,
            );
        }
        let stats = cache.stats();
        assert_eq!(stats.entries as u64, ENTRIES);
        let estimate = stats.bytes as f64;
        let real = (allocated() - before) as f64;
        let error = estimate / real - 1.0;
        println!(
            "{tags} tags, values of {value_bytes}: {:.0} bytes an entry, estimate {:+.1} %",
            real / ENTRIES as f64,
            100.0 * error
        );
        assert!(
            error.abs() < 0.15,
            "{tags} tags, values of {value_bytes}: {estimate} for {real}"
        );

        cache.invalidate_all();
        assert_eq!(cache.stats().bytes, 0);
        drop(cache);
        let left = allocated().saturating_sub(before);
        assert!(left < 100_000, "{left} bytes are still there");
    }
}
