//! The words of a command: read as options are read, each is one with a value in its range, or an error.
#![no_main]
#![allow(dead_code)]

#[path = "../../module/src/args.rs"]
mod args;
#[path = "../../module/src/config.rs"]
mod config;
#[path = "../../module/src/error.rs"]
mod error;
#[path = "../../module/src/leb128.rs"]
mod leb128;
#[path = "../../module/src/native.rs"]
mod native;
#[path = "../../module/src/record.rs"]
mod record;

use args::{Cursor, TagLimits, Ttl};
use libfuzzer_sys::fuzz_target;

const NOW_MS: u64 = 1_800_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let words: Vec<&[u8]> = bytes.split(|byte| *byte == b' ').collect();
    let mut cursor = Cursor::new(&words);
    let mut read = || -> Result<(), error::Error> {
        while let Some(word) = cursor.next_option() {
            if let Some(ttl) = Ttl::parse(word, &mut cursor)? {
                if let Some(deadline) = ttl.deadline_ms(NOW_MS, "fuzz")? {
                    assert!((1..=i64::MAX as u64).contains(&deadline));
                }
            } else if word.is(b"TAGS") {
                for tag in cursor.next_stored_tags(TagLimits::WIDEST)? {
                    assert!((1..=65_536).contains(&tag.len()));
                }
            } else if word.is(b"ANY") {
                assert!(!cursor.next_tags(1)?.is_empty());
            } else if word.is(b"GRACE") {
                assert!(cursor.next_in(0..=record::MAX_SPAN_MS)? <= 1 << 40);
            } else if word.is(b"LEASE") {
                let number = cursor.next_i64()?;
                assert_eq!(args::parse_i64(number.to_string().as_bytes()), Some(number));
            } else {
                assert!((3..=7).contains(&cursor.next_in(3..=7)?));
            }
        }
        Ok(())
    };
    let _ = read();
    native::keys(words[0]);
});
