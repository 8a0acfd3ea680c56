//! The settings: names, defaults, ranges.

/// One setting: the server shows it as `tagcache.<name>`.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static std::ffi::CStr,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// Names of the numbers from 0 on, if it is set by name.
    pub(crate) words: &'static [&'static std::ffi::CStr],
    pub(crate) get: fn(&Config) -> i64,
    pub(crate) set: fn(&mut Config, i64),
}

impl Setting {
    /// The number that a value stands for, if it is valid for this setting.
    fn parse(&self, value: &[u8]) -> Option<i64> {
        if self.words.is_empty() {
            let number = crate::args::parse_i64(value)?;
            return (self.min..=self.max).contains(&number).then_some(number);
        }
        let mut words = self.words.iter();
        let at = words.position(|word| word.to_bytes().eq_ignore_ascii_case(value))?;
        Some(at as i64)
    }

    /// The permitted values, in words.
    fn range(&self) -> String {
        if self.words.is_empty() {
            return format!("an integer from {} to {}", self.min, self.max);
        }
        let words: Vec<_> = self.words.iter().map(|w| w.to_string_lossy()).collect();
        words.join(" or ")
    }
}

/// Defines [`Config`], its default, and [`SETTINGS`] from one row per setting: field and type, name, default, range,
/// and the names of the range's numbers if it is set by name.
macro_rules! settings {
    ($($field:ident: $type:ty = $name:literal, $default:literal, $min:literal to $max:expr $(, $word:literal)*;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct Config {
            $(pub(crate) $field: $type,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        #[allow(clippy::cast_lossless, reason = "some of the types are wider")]
        pub(crate) static SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            min: $min,
            max: $max,
            words: &[$($word),*],
            get: |config| config.$field as i64,
            set: |config, value| config.$field = value as $type,
        },)+];
    };
}

/// The value `drop` of `after-restart`.
pub(crate) const DROP: u8 = 1;

settings! {
    default_ttl_ms: u64 = c"default-ttl-ms", 0, 0 to 1 << 47;
    top_keys: u64 = c"top-keys", 200, 1 to 10_000;
    max_tag_bytes: u64 = c"max-tag-bytes", 512, 1 to 65_536;
    max_tags_per_entry: u64 = c"max-tags-per-entry", 1_024, 1 to 16_384;
    reclaim_budget_us: u64 = c"reclaim-budget-us", 1_000, 50 to 100_000;
    reclaim_inline: u64 = c"reclaim-inline", 128, 0 to 100_000;
    lease_max_ms: u64 = c"lease-max-ms", 60_000, 1 to 3_600_000;
    lease_orphan_ms: u64 = c"lease-orphan-ms", 1_000, 0 to 3_600_000;
    after_restart: u8 = c"after-restart", 0, 0 to 1, c"keep", c"drop";
}

/// The settings given as module arguments, `name value` pairs, with or without `tagcache.` before the name. An error's
/// message names the permitted values.
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
    fn module_arguments_take_a_prefix_and_errors_name_the_range() {
        let config = from_args(&[b"tagcache.default-ttl-ms", b"5000", b"Reclaim-Inline", b"0"])
            .expect("good");
        assert_eq!((config.default_ttl_ms, config.reclaim_inline), (5_000, 0));
        assert_eq!(config.max_tag_bytes, 512);
        let refused = |args: &[&[u8]]| from_args(args).expect_err("refused");
        assert!(refused(&[b"reclaim-budget-us", b"1"]).contains("from 50 to 100000, not '1'"));
        assert!(refused(&[b"reclaim-budget-us", b"x"]).contains("integer"));
        assert!(refused(&[b"reclaim-budget-us"]).contains("no value"));
        let dropping = from_args(&[b"after-restart", b"Drop"]).expect("good");
        assert!(dropping.after_restart == DROP && config.after_restart != DROP);
        assert!(refused(&[b"after-restart", b"1"]).contains("must be keep or drop, not '1'"));
        assert!(refused(&[b"nonsense", b"1"]).contains("known are: default-ttl-ms"));
    }

    #[test]
    fn every_default_lies_in_its_range() {
        for setting in SETTINGS {
            assert!((setting.min..=setting.max).contains(&(setting.get)(&Config::default())));
        }
    }
}
