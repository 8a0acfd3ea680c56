//! `tagcache serve`: dashboard and admin endpoint for a server that is there, or will be.

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
    // A server that is away is shown as such, and so is its return.
    let server = named(&args.at)?;
    // What has no figures of the module now may have some later: to be said, and no reason to end.
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
