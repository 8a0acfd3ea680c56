//! `tagcache serve`: dashboard and admin endpoint for a server, which need not be running yet.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::args::Serve;
use crate::connect::{named, without_cache};
use crate::output::{Failure, show};
use crate::{endpoint, signals, token};

pub(crate) fn run(args: &Serve, json: bool) -> Result<(), Failure> {
    let Some(auth) = token::auth(&args.endpoint)? else {
        return Err(Failure::Usage(
            "no authorisation: give --admin-token-file FILE, or --insecure-no-auth on loopback"
                .into(),
        ));
    };
    let ended = signals::ended()?;
    let listener = endpoint::bind(&args.endpoint)?;
    // The dashboard shows when a server is unreachable and when it returns.
    let server = named(&args.at)?;
    // A server without figures of the module may have some later: that is reported, but does not end the program.
    if server
        .figures()
        .is_ok_and(|figures| figures.cache.is_none())
    {
        without_cache(&server).print(json);
    }
    let built = endpoint::build(&args.endpoint, listener, &server, auth, None)?;
    let url = built.url()?;
    show(
        json,
        &json!({"dashboard": url, "instance": built.instance}),
        || format!("Dashboard: {url}\nCtrl-C ends it.\n"),
    )?;
    endpoint::serve(built, || ended.load(Ordering::Relaxed).then_some(Ok(())))
}
