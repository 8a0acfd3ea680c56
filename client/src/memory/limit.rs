//! How much memory the process may use at most.

use std::fs;
use std::path::{Path, PathBuf};

/// The tightest limit of the cgroups that the process is in (version 2, or 1 where the memory controller is still
/// there), else physical memory, in bytes.
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
    let of = |version: &Version| {
        let mount = version.mount(&mounts)?;
        tightest(&mount, version.own_cgroup(&membership)?, version.file)
    };
    [V2, V1].iter().filter_map(of).min()
}

/// How a version of the cgroup file system is told apart.
struct Version {
    /// The mount's type and, where each controller has a hierarchy of its own, the option that names it.
    kind: &'static str,
    option: &'static str,
    /// The controllers in the process's line of membership.
    controllers: &'static str,
    file: &'static str,
}

const V2: Version = Version {
    kind: "cgroup2",
    option: "",
    controllers: "",
    file: "memory.max",
};
const V1: Version = Version {
    kind: "cgroup",
    option: "memory",
    controllers: "memory",
    file: "memory.limit_in_bytes",
};

impl Version {
    /// Where it is mounted: version 2 at `/sys/fs/cgroup`, or below it where version 1 is in use as well.
    fn mount(&self, mounts: &str) -> Option<PathBuf> {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
            let right = self.option.is_empty() || options.split(',').any(|o| o == self.option);
            (kind == self.kind && right).then(|| PathBuf::from(path))
        })
    }

    /// The process's path in it: the line `0::/path`, or `4:memory:/path`.
    fn own_cgroup<'a>(&self, membership: &'a str) -> Option<&'a str> {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let right = controllers.split(',').any(|c| c == self.controllers);
            right.then(|| path.trim_start_matches('/'))
        })
    }
}

/// The smallest limit between a cgroup and the root: each of them holds. In a container the path may be the host's, of
/// which nothing is to be seen here but the root, which is then the container's own cgroup.
fn tightest(mount: &Path, cgroup: &str, file: &str) -> Option<u64> {
    let own = mount.join(cgroup);
    own.ancestors()
        .take_while(|dir| dir.starts_with(mount))
        .filter_map(|dir| {
            // "max" means no limit and does not parse; version 1 has a number above any memory for it.
            let text = fs::read_to_string(dir.join(file)).ok()?;
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
        assert_eq!(tightest(dir.path(), "pod/app", V2.file), Some(1_048_576));
        fs::write(leaf.join("memory.max"), "4096\n").unwrap();
        assert_eq!(tightest(dir.path(), "pod/app", V2.file), Some(4096));
        assert_eq!(tightest(dir.path(), "elsewhere", V2.file), None);
        // A container sees its own cgroup as the root, and the host's path.
        fs::write(dir.path().join("memory.limit_in_bytes"), "8192\n").unwrap();
        assert_eq!(tightest(dir.path(), "docker/0123", V1.file), Some(8192));
    }

    #[test]
    fn finds_the_hierarchies() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(V2.mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(V1.mount(hybrid), Some("/sys/fs/cgroup/memory".into()));
        let neither = "proc /proc proc rw 0 0\n";
        assert_eq!((V1.mount(neither), V2.mount(neither)), (None, None));
        let membership = "5:cpu,cpuacct:/b\n4:memory:/a\n0::/pod/app\n";
        assert_eq!(V2.own_cgroup(membership), Some("pod/app"));
        assert_eq!(V1.own_cgroup(membership), Some("a"));
        assert_eq!(V2.own_cgroup("4:memory:/a\n"), None);
        assert_eq!(V1.own_cgroup("0::/a:b\n"), None);
        assert_eq!(V2.own_cgroup("0::/a:b\n"), Some("a:b"));
    }

    #[test]
    fn physical_memory_is_in_kib() {
        assert_eq!(
            physical_memory("MemTotal:       24684084 kB\nMemFree: 1 kB\n"),
            Some(24_684_084 * 1024)
        );
    }
}
