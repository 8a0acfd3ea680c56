//! The dashboard in headless Chromium: each state as a person sees it. Without chromium and chromedriver (Debian's
//! packages `chromium` and `chromium-driver`, which `make test` installs) the tests say so and pass.
//!
//! `TAGCACHE_SCREENSHOTS=DIR` keeps a picture of each state in DIR.
#![forbid(unsafe_code)]
// A helper that cannot go on fails its test, as the test itself would.
#![allow(clippy::unwrap_used)]

mod acts;
mod browser;
mod page;
mod states;
