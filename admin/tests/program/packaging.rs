//! The files in `packaging/` agree with each other and with the program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tagcache_admin::memory::METRICS;

use crate::run::{program, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MODULE: &str = "/usr/lib/redis/modules/tagcache.so";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

fn read(file: &str) -> String {
    let path = packaging().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn packaged_prometheus_rules_match_the_export_of_the_guide() {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/src/alerts/guide.yaml");
    let exported = run(&["alerts", "export", guide]).ok().out;
    assert_eq!(read("docker/alerts.yaml"), exported);
}

#[test]
fn compose_file_names_existing_files_and_services() {
    let compose = yaml(&read("docker/compose.yaml"));
    let services = compose["services"].as_object().unwrap();
    let secrets: BTreeSet<&String> = compose["secrets"].as_object().unwrap().keys().collect();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        if image.starts_with("tagcache:") {
            assert_eq!(image, format!("tagcache:{VERSION}"));
        }
        for secret in service["secrets"].as_array().unwrap() {
            assert!(
                secrets.iter().any(|known| secret == *known),
                "{name}: {secret}"
            );
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if source.starts_with('.') {
                let path = packaging().join("docker").join(source);
                assert!(path.exists(), "{name}: {source}");
            } else {
                assert!(!compose["volumes"][source].is_string(), "{name}: {source}");
            }
        }
    }
    let scraped = yaml(&read("docker/prometheus.yaml"));
    let target = scraped["scrape_configs"][0]["static_configs"][0]["targets"][0]
        .as_str()
        .unwrap();
    let (service, port) = target.split_once(':').unwrap();
    let command = services[service]["command"].to_string();
    assert!(
        command.contains(&format!("--listen 0.0.0.0:{port}")),
        "{command}"
    );
    let source = yaml(&read("docker/grafana/datasources/prometheus.yaml"));
    let url = source["datasources"][0]["url"].as_str().unwrap();
    assert!(services.contains_key(url.trim_start_matches("http://").split(':').next().unwrap()));
}

#[test]
fn configurations_load_the_module_from_its_packaged_path() {
    let line = format!("loadmodule {MODULE}\n");
    for file in ["tagcache.conf", "docker/redis.conf"] {
        assert!(read(file).contains(&line), "{file}");
    }
    assert!(read("docker/Dockerfile").contains(&format!(" {MODULE}\n")));
    let (directory, _) = MODULE.rsplit_once('/').unwrap();
    let manifest =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../module/Cargo.toml"));
    assert!(
        manifest
            .unwrap()
            .contains(&format!("\"{}/\", \"755\"", &directory[1..]))
    );
}

#[test]
fn docker_build_includes_every_workspace_member() {
    let manifest = std::fs::read_to_string(packaging().join("../Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    let ignored = read("docker/Dockerfile.dockerignore");
    for member in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        let line = format!("!{member}");
        assert!(ignored.lines().any(|kept| kept == line), "{line}");
    }
}

#[test]
fn grafana_configuration_provides_dashboard_and_data_source() {
    let compose = yaml(&read("docker/compose.yaml"));
    let grafana = &compose["services"]["grafana"];
    let provider = yaml(&read("docker/grafana/dashboards/tagcache.yaml"));
    let folder = provider["providers"][0]["options"]["path"]
        .as_str()
        .unwrap();
    let home = &grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let mounted = grafana["volumes"].as_array().unwrap().iter();
    let mounted = mounted.filter_map(|volume| volume.as_str()?.split_once(':'));
    let mounts: Vec<_> = mounted
        .filter(|(_, target)| target.starts_with(folder))
        .collect();
    let [(file, target)] = mounts[..] else {
        panic!("{mounts:?}");
    };
    assert_eq!(home, target.trim_end_matches(":ro"));
    let provisioned: Value = serde_json::from_str(&read(&format!("docker/{file}"))).unwrap();
    let exported: Value = run(&["alerts", "export", "--grafana"]).ok().json();
    assert_eq!(provisioned, exported);
    // The source has no name, so it must be the default one, which its panels then use.
    let source = yaml(&read("docker/grafana/datasources/prometheus.yaml"));
    assert_eq!(source["datasources"][0]["type"], "prometheus");
    assert_eq!(source["datasources"][0]["isDefault"], true);
}

#[test]
fn kubernetes_objects_are_consistent() {
    let text = read("kubernetes/tagcache.yaml");
    let objects: Vec<Value> = text.split("\n---\n").map(yaml).collect();
    let kinds: Vec<&str> = objects
        .iter()
        .map(|o| o["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "ConfigMap",
            "StatefulSet",
            "Service",
            "Deployment",
            "Service"
        ]
    );
    let config = objects[0]["data"]["redis.conf"].as_str().unwrap();
    assert!(
        config.contains(&format!("loadmodule {MODULE}\n")),
        "{config}"
    );
    for (workload, service) in [(&objects[1], &objects[2]), (&objects[3], &objects[4])] {
        let template = &workload["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().unwrap();
        for selector in [
            &workload["spec"]["selector"]["matchLabels"],
            &service["spec"]["selector"],
        ] {
            for (name, value) in selector.as_object().unwrap() {
                assert_eq!(labels.get(name), Some(value));
            }
        }
        let container = &template["spec"]["containers"][0];
        assert_eq!(container["image"], format!("tagcache:{VERSION}"));
        assert_eq!(
            service["spec"]["ports"][0]["targetPort"],
            container["ports"][0]["name"]
        );
    }
}

#[test]
fn metrics_in_dashboard_variables_exist() {
    let dashboard: Value = run(&["alerts", "export", "--grafana"]).ok().json();
    let queries = dashboard["templating"]["list"].to_string();
    let words = queries.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named: Vec<&str> = words.filter(|word| word.starts_with("tagcache_")).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(
            METRICS.iter().any(|metric| metric.prometheus == name),
            "{name}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let status = program().arg("man").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let all = page("tagcache.1");
    let help = run(&["--help"]).ok().out;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands {
        // In a manual page a hyphen is escaped.
        let escaped = format!("tagcache-{command}").replace('-', "\\-");
        assert!(all.contains(&escaped), "{command} in {all}");
        assert!(
            page(&format!("tagcache-{command}.1")).starts_with(".ie"),
            "{command}"
        );
    }
}

#[test]
fn version_has_a_section_in_the_changelog() {
    let changelog = Path::new(env!("CARGO_MANIFEST_DIR")).join("../CHANGELOG.md");
    let text = std::fs::read_to_string(changelog).unwrap();
    assert!(text.contains(&format!("\n## [{VERSION}]")));
}
