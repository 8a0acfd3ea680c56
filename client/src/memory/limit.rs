//! The most memory that the process may use.

use std::path::Path;

/// The tightest limit of the cgroups that the process is in (version 2, or 1 where the memory controller is still
/// there), else physical memory, in bytes.
#[cfg(target_os = "linux")]
pub(super) fn memory_limit() -> Option<u64> {
    use procfs::Current;
    let physical = procfs::Meminfo::current().ok().map(|info| info.mem_total);
    // A limit above the machine's memory has no effect.
    cgroup_limit().into_iter().chain(physical).min()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn memory_limit() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
fn cgroup_limit() -> Option<u64> {
    let process = procfs::process::Process::myself().ok()?;
    let (cgroups, mounts) = (process.cgroups().ok()?, process.mountinfo().ok()?);
    let limit = |group: &procfs::ProcessCGroup| {
        // Version 2 has one hierarchy for all controllers, version 1 one per controller.
        let (kind, file) = match group.controllers.as_slice() {
            [] => ("cgroup2", "memory.max"),
            all if all.iter().any(|name| name == "memory") => ("cgroup", "memory.limit_in_bytes"),
            _ => return None,
        };
        let mount = mounts.0.iter().find(|mount| {
            let options = &mount.super_options;
            mount.fs_type == kind && (kind == "cgroup2" || options.contains_key("memory"))
        })?;
        let path = group.pathname.trim_start_matches('/');
        tightest(&mount.mount_point, path, file)
    };
    cgroups.0.iter().filter_map(limit).min()
}

/// The smallest limit between a cgroup and the root: all of them apply. In a container the path may be the host's, of
/// which only the root is visible here, which is then the container's own cgroup.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn tightest(mount: &Path, cgroup: &str, file: &str) -> Option<u64> {
    let own = mount.join(cgroup);
    own.ancestors()
        .take_while(|dir| dir.starts_with(mount))
        .filter_map(|dir| {
            // "max" means no limit and does not parse; version 1 has a number above any memory for it.
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            text.trim().parse().ok()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const V1: &str = "memory.limit_in_bytes";
    const V2: &str = "memory.max";

    #[test]
    fn tightest_cgroup_limit_up_to_the_root_applies() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("pod/app");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(dir.path().join("pod/memory.max"), "1048576\n").unwrap();
        fs::write(leaf.join("memory.max"), "max\n").unwrap();
        assert_eq!(tightest(dir.path(), "pod/app", V2), Some(1_048_576));
        fs::write(leaf.join("memory.max"), "4096\n").unwrap();
        assert_eq!(tightest(dir.path(), "pod/app", V2), Some(4096));
        assert_eq!(tightest(dir.path(), "elsewhere", V2), None);
        // A container sees its own cgroup as the root, and the host's path.
        fs::write(dir.path().join("memory.limit_in_bytes"), "8192\n").unwrap();
        assert_eq!(tightest(dir.path(), "docker/0123", V1), Some(8192));
    }
}
