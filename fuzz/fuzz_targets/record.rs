//! An entry as it lies in RDB files and dumps: refused, or a record that is written and read again as the same one.
#![no_main]
#![allow(dead_code)]

#[path = "../../module/src/leb128.rs"]
mod leb128;
#[path = "../../module/src/record.rs"]
mod record;

use libfuzzer_sys::fuzz_target;
use record::Record;

fuzz_target!(|bytes: &[u8]| {
    if let Some(record) = Record::decode(bytes) {
        let again = record.encode();
        assert!(Record::decode(&again) == Record::decode(bytes));
    }
});
