//! The dashboard in headless Chromium: each state as a person sees it. Without chromium and chromedriver (Debian's
//! packages `chromium` and `chromium-driver`, which `make test` installs) the tests print a message and pass.
//!
//! `TAGCACHE_SCREENSHOTS=DIR` keeps a picture of each state in DIR.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

mod acts;
mod browser;
mod page;
mod states;
