//! `tagcache serve`: dashboard and admin endpoint for a server that is there, or will be.

use std::sync::atomic::Ordering;

use serde_json::json;
use tagcache_admin::memory::Server;

use crate::args::Serve;
use crate::output::{Failure, show};
use crate::{endpoint, signals, token};

pub(crate) fn run(args: &Serve, json: bool) -> Result<(), Failure> {
    let Some(auth) = token::auth(&args.endpoint)? else {
        return Err(Failure::Usage(
            "nobody is told apart: name --admin-token-file FILE, or --insecure-no-auth on loopback"
                .into(),
        ));
    };
    let ended = signals::ended()?;
    let listener = endpoint::bind(&args.endpoint)?;
    // A server that is away is shown as such, and so is its return.
    let server = Server::open(&args.at.redis)
        .map_err(|error| Failure::Usage(format!("--redis: {error}")))?;
    let built = endpoint::build(&args.endpoint, listener, &server, auth)?;
    let url = built.url()?;
    show(
        json,
        &json!({"dashboard": url, "instance": built.instance}),
        || format!("Dashboard: {url}\nCtrl-C ends it.\n"),
    )?;
    endpoint::serve(built, || ended.load(Ordering::Relaxed).then_some(Ok(())))
}
