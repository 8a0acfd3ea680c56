//! `tagcache serve`: dashboard and admin endpoint for a server that is there, or will be.

use std::sync::atomic::AtomicBool;

use serde_json::json;
use tagcache::memory::Server;

use crate::args::Serve;
use crate::output::{Failure, show};
use crate::{endpoint, token};

pub(crate) fn run(args: &Serve, json: bool) -> Result<(), Failure> {
    let Some(auth) = token::auth(&args.endpoint)? else {
        return Err(Failure::Usage(
            "nobody is told apart: name --admin-token-file FILE, or --insecure-no-auth on loopback"
                .into(),
        ));
    };
    let listener = endpoint::bind(&args.endpoint)?;
    // A server that is away is shown as such, and so is its return.
    let server = Server::open(&args.at.redis)
        .map_err(|error| Failure::Usage(format!("--redis: {error}")))?;
    let admin = endpoint::build(&args.endpoint, &server, auth)?;
    let url = format!("http://{}/", listener.local_addr()?);
    show(
        json,
        &json!({"dashboard": url, "instance": args.endpoint.instance}),
        || format!("Dashboard: {url}\nCtrl-C ends it.\n"),
    )?;
    endpoint::serve(listener, admin, &AtomicBool::new(false))
}
