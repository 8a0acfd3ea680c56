//! Messages of the invalidation channel: tags that stand in the message, or everything is dropped.
#![no_main]
#![allow(dead_code)]

#[path = "../../client/src/remote/message.rs"]
mod message;

mod command {
    /// As the client's.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Invalidation {
        Hard,
        Soft,
    }
}

use libfuzzer_sys::fuzz_target;
use message::{Push, decode};

fuzz_target!(|message: &[u8]| match decode(message) {
    Push::Everything => {}
    Push::Tags(_, tags) => {
        let whole = message.as_ptr_range();
        for tag in tags {
            let part = tag.as_ptr_range();
            assert!(whole.start <= part.start && part.end <= whole.end);
        }
    }
    push => panic!("{push:?}"),
});
