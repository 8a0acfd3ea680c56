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
    pub(crate) lease_orphan_ms: u64,
    pub(crate) after_restart: AfterRestart,
}

/// What a primary does with entries of the RDB file that it starts from, which may lack the last invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRestart {
    Keep,
    Drop,
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
            lease_orphan_ms: 0,
            after_restart: AfterRestart::Keep,
        };
        for setting in &SETTINGS {
            (setting.set)(&mut config, setting.default);
        }
        config
    }
}

/// One setting: the server shows it as `tagcache.<name>`.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static std::ffi::CStr,
    pub(crate) default: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// Names for the numbers from `min` to `max`, where it is set by name.
    pub(crate) words: &'static [&'static std::ffi::CStr],
    pub(crate) get: fn(&Config) -> i64,
    pub(crate) set: fn(&mut Config, i64),
}

impl Setting {
    /// The number that a value stands for, if it is one of this setting's.
    fn parse(&self, value: &[u8]) -> Option<i64> {
        if self.words.is_empty() {
            let number = crate::args::parse_i64(value)?;
            return (self.min..=self.max).contains(&number).then_some(number);
        }
        let mut words = self.words.iter();
        let at = words.position(|word| word.to_bytes().eq_ignore_ascii_case(value))?;
        Some(self.min + at as i64)
    }

    /// What may be given, in words.
    fn range(&self) -> String {
        if self.words.is_empty() {
            return format!("an integer from {} to {}", self.min, self.max);
        }
        let words: Vec<_> = self.words.iter().map(|w| w.to_string_lossy()).collect();
        words.join(" or ")
    }
}

/// All settings.
pub(crate) static SETTINGS: [Setting; 9] = [
    Setting {
        name: c"default-ttl-ms",
        default: 0,
        min: 0,
        max: 1 << 47,
        words: &[],
        get: |c| c.default_ttl_ms as i64,
        set: |c, v| c.default_ttl_ms = v as u64,
    },
    Setting {
        name: c"top-keys",
        default: 200,
        min: 1,
        max: 10_000,
        words: &[],
        get: |c| c.top_keys.into(),
        set: |c, v| c.top_keys = v as u32,
    },
    Setting {
        name: c"max-tag-bytes",
        default: 512,
        min: 1,
        max: 65_536,
        words: &[],
        get: |c| c.max_tag_bytes.into(),
        set: |c, v| c.max_tag_bytes = v as u32,
    },
    Setting {
        name: c"max-tags-per-entry",
        default: 1_024,
        min: 1,
        max: 16_384,
        words: &[],
        get: |c| c.max_tags_per_entry.into(),
        set: |c, v| c.max_tags_per_entry = v as u32,
    },
    Setting {
        name: c"reclaim-budget-us",
        default: 1_000,
        min: 50,
        max: 100_000,
        words: &[],
        get: |c| c.reclaim_budget_us as i64,
        set: |c, v| c.reclaim_budget_us = v as u64,
    },
    Setting {
        name: c"reclaim-inline",
        default: 128,
        min: 0,
        max: 100_000,
        words: &[],
        get: |c| c.reclaim_inline.into(),
        set: |c, v| c.reclaim_inline = v as u32,
    },
    Setting {
        name: c"lease-max-ms",
        default: 60_000,
        min: 1,
        max: 3_600_000,
        words: &[],
        get: |c| c.lease_max_ms as i64,
        set: |c, v| c.lease_max_ms = v as u64,
    },
    Setting {
        name: c"lease-orphan-ms",
        default: 1_000,
        min: 0,
        max: 3_600_000,
        words: &[],
        get: |c| c.lease_orphan_ms as i64,
        set: |c, v| c.lease_orphan_ms = v as u64,
    },
    Setting {
        name: c"after-restart",
        default: 0,
        min: 0,
        max: 1,
        words: &[c"keep", c"drop"],
        get: |c| c.after_restart as i64,
        set: |c, v| {
            c.after_restart = match v {
                0 => AfterRestart::Keep,
                _ => AfterRestart::Drop,
            };
        },
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
        let Some(number) = setting.parse(value) else {
            return Err(format!(
                "module argument '{shown}' must be {}, not '{}'",
                setting.range(),
                String::from_utf8_lossy(value)
            ));
        };
        (setting.set)(&mut config, number);
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
        let dropping = from_args(&[b"after-restart", b"Drop"]).expect("good");
        assert_eq!(dropping.after_restart, AfterRestart::Drop);
        assert!(refused(&[b"after-restart", b"1"]).contains("must be keep or drop, not '1'"));
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
