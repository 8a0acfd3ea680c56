//! The same rules for Prometheus.

use std::fmt::Write as _;

use super::rules::Config;

impl Config {
    /// The rules as a Prometheus rule file (YAML): expressions over the metrics of `GET /metrics`. Channels, hysteresis
    /// and cool-down are left out, because Alertmanager configures them.
    pub fn to_prometheus(&self) -> String {
        let mut text = "groups:\n  - name: tagcache\n    rules:\n".to_owned();
        for rule in &self.rules {
            let _ = write!(
                text,
                "      - alert: {}\n        expr: {}\n",
                quoted(&rule.name),
                quoted(&rule.condition.to_promql())
            );
            if !rule.timing.hold.is_zero() {
                let ms = rule.timing.hold.as_millis();
                let _ = writeln!(text, "        for: {ms}ms");
            }
            let _ = write!(
                text,
                "        labels:\n          severity: {}\n        annotations:\n          summary: {}\n          condition: {}\n",
                rule.severity,
                quoted(&format!(
                    "{} on {{{{ $labels.instance }}}}",
                    untemplated(&rule.name)
                )),
                quoted(&rule.text)
            );
        }
        if self.rules.is_empty() {
            text = "groups: []\n".into();
        }
        text
    }
}

/// Escapes a name for an annotation, which is a template: `$labels` does not contain an alert's name.
fn untemplated(name: &str) -> String {
    name.replace("{{", r#"{{ "{{" }}"#)
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_guide_are_exported_to_prometheus() {
        let mut guide = include_str!("guide.yaml").to_owned();
        guide.push_str("    for: 5m\n");
        let text = Config::from_yaml(&guide).unwrap().to_prometheus();
        assert!(text.contains("- alert: \"High Memory Usage\"\n        expr: \"tagcache_memory_heap_ratio > 0.85\"\n        labels:"), "{text}");
        assert!(
            text.contains("expr: \"tagcache_memory_heap_ratio > 0.95\"\n        for: 300000ms\n"),
            "{text}"
        );
    }
}
