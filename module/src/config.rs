//! The settings: names, defaults, ranges.

/// Values of all settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) default_ttl_ms: u64,
    pub(crate) top_keys: u32,
    pub(crate) max_tag_bytes: u32,
    pub(crate) max_tags_per_entry: u32,
    pub(crate) reclaim_budget_us: u64,
    pub(crate) reclaim_inline: u32,
    pub(crate) lease_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            default_ttl_ms: 0,
            top_keys: 0,
            max_tag_bytes: 0,
            max_tags_per_entry: 0,
            reclaim_budget_us: 0,
            reclaim_inline: 0,
            lease_max_ms: 0,
        };
        for setting in &SETTINGS {
            (setting.set)(&mut config, setting.default);
        }
        config
    }
}

impl Config {
    /// With the limits of tags as wide as any node may have set them: what a primary or a log says was accepted there.
    pub(crate) fn without_limits(mut self) -> Self {
        for setting in &SETTINGS {
            if matches!(
                setting.name.to_bytes(),
                b"max-tag-bytes" | b"max-tags-per-entry"
            ) {
                (setting.set)(&mut self, setting.max);
            }
        }
        self
    }
}

/// One setting: the server shows it as `tagcache.<name>`.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static std::ffi::CStr,
    pub(crate) default: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) get: fn(&Config) -> i64,
    pub(crate) set: fn(&mut Config, i64),
}

/// All settings.
pub(crate) static SETTINGS: [Setting; 7] = [
    Setting {
        name: c"default-ttl-ms",
        default: 0,
        min: 0,
        max: 1 << 47,
        get: |c| c.default_ttl_ms as i64,
        set: |c, v| c.default_ttl_ms = v as u64,
    },
    Setting {
        name: c"top-keys",
        default: 200,
        min: 1,
        max: 10_000,
        get: |c| c.top_keys.into(),
        set: |c, v| c.top_keys = v as u32,
    },
    Setting {
        name: c"max-tag-bytes",
        default: 512,
        min: 1,
        max: 65_536,
        get: |c| c.max_tag_bytes.into(),
        set: |c, v| c.max_tag_bytes = v as u32,
    },
    Setting {
        name: c"max-tags-per-entry",
        default: 128,
        min: 1,
        max: 1_024,
        get: |c| c.max_tags_per_entry.into(),
        set: |c, v| c.max_tags_per_entry = v as u32,
    },
    Setting {
        name: c"reclaim-budget-us",
        default: 1_000,
        min: 50,
        max: 100_000,
        get: |c| c.reclaim_budget_us as i64,
        set: |c, v| c.reclaim_budget_us = v as u64,
    },
    Setting {
        name: c"reclaim-inline",
        default: 128,
        min: 0,
        max: 100_000,
        get: |c| c.reclaim_inline.into(),
        set: |c, v| c.reclaim_inline = v as u32,
    },
    Setting {
        name: c"lease-max-ms",
        default: 60_000,
        min: 1,
        max: 3_600_000,
        get: |c| c.lease_max_ms as i64,
        set: |c, v| c.lease_max_ms = v as u64,
    },
];

/// The settings given as module arguments, `name value` pairs, with or without `tagcache.` before the name. The
/// message of an error says what would be right.
pub(crate) fn from_args(args: &[&[u8]]) -> Result<Config, String> {
    let mut config = Config::default();
    for pair in args.chunks(2) {
        let shown = String::from_utf8_lossy(pair[0]);
        let bare = pair[0].strip_prefix(b"tagcache.").unwrap_or(pair[0]);
        let Some(setting) = SETTINGS
            .iter()
            .find(|s| s.name.to_bytes().eq_ignore_ascii_case(bare))
        else {
            let names: Vec<_> = SETTINGS.iter().map(|s| s.name.to_string_lossy()).collect();
            return Err(format!(
                "unknown module argument '{shown}', known are: {}",
                names.join(", ")
            ));
        };
        let Some(value) = pair.get(1) else {
            return Err(format!("module argument '{shown}' has no value"));
        };
        match crate::args::parse_i64(value) {
            Some(number) if (setting.min..=setting.max).contains(&number) => {
                (setting.set)(&mut config, number);
            }
            _ => {
                return Err(format!(
                    "module argument '{shown}' must be an integer from {} to {}, not '{}'",
                    setting.min,
                    setting.max,
                    String::from_utf8_lossy(value)
                ));
            }
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_with_and_without_prefix_and_refused_with_the_range() {
        let config = from_args(&[b"tagcache.default-ttl-ms", b"5000", b"Reclaim-Inline", b"0"])
            .expect("good");
        assert_eq!((config.default_ttl_ms, config.reclaim_inline), (5_000, 0));
        assert_eq!(config.max_tag_bytes, 512);
        let refused = |args: &[&[u8]]| from_args(args).expect_err("refused");
        assert!(refused(&[b"reclaim-budget-us", b"1"]).contains("from 50 to 100000, not '1'"));
        assert!(refused(&[b"reclaim-budget-us", b"x"]).contains("integer"));
        assert!(refused(&[b"reclaim-budget-us"]).contains("no value"));
        assert!(refused(&[b"nonsense", b"1"]).contains("known are: default-ttl-ms"));
    }

    #[test]
    fn every_default_lies_in_its_range() {
        for setting in &SETTINGS {
            assert!((setting.min..=setting.max).contains(&setting.default));
            assert_eq!((setting.get)(&Config::default()), setting.default);
        }
    }
}
