//! How much memory the process may use at most.

use std::fs;
use std::path::{Path, PathBuf};

/// The tightest `memory.max` of the cgroups that the process is in, else physical memory, in bytes.
pub(super) fn memory_limit() -> Option<u64> {
    let physical = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| physical_memory(&text));
    match (cgroup_limit(), physical) {
        // A limit above what the machine has limits nothing.
        (Some(cgroup), Some(physical)) => Some(cgroup.min(physical)),
        (cgroup, physical) => cgroup.or(physical),
    }
}

fn cgroup_limit() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    tightest(&cgroup2_mount(&mounts)?, own_cgroup(&membership)?)
}

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or below it where v1 is in use as well.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The path in the unified hierarchy: the line `0::/path`.
fn own_cgroup(membership: &str) -> Option<&str> {
    membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(|path| path.trim_start_matches('/'))
}

/// The smallest limit between a cgroup and the root: each of them holds.
fn tightest(mount: &Path, cgroup: &str) -> Option<u64> {
    let own = mount.join(cgroup);
    own.ancestors()
        .take_while(|dir| dir.starts_with(mount))
        .filter_map(|dir| {
            // "max" means no limit and does not parse.
            let text = fs::read_to_string(dir.join("memory.max")).ok()?;
            text.trim().parse().ok()
        })
        .min()
}

fn physical_memory(meminfo: &str) -> Option<u64> {
    super::process::kib_field(meminfo, "MemTotal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_on_the_way_to_the_root_holds() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("pod/app");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(dir.path().join("pod/memory.max"), "1048576\n").unwrap();
        fs::write(leaf.join("memory.max"), "max\n").unwrap();
        assert_eq!(tightest(dir.path(), "pod/app"), Some(1_048_576));
        fs::write(leaf.join("memory.max"), "4096\n").unwrap();
        assert_eq!(tightest(dir.path(), "pod/app"), Some(4096));
        assert_eq!(tightest(dir.path(), "elsewhere"), None);
    }

    #[test]
    fn finds_the_unified_hierarchy() {
        let hybrid = "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
        assert_eq!(own_cgroup("4:memory:/a\n0::/pod/app\n"), Some("pod/app"));
        assert_eq!(own_cgroup("4:memory:/a\n"), None);
    }

    #[test]
    fn physical_memory_is_in_kib() {
        assert_eq!(
            physical_memory("MemTotal:       24684084 kB\nMemFree: 1 kB\n"),
            Some(24_684_084 * 1024)
        );
    }
}
