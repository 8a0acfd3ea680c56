//! `tagcache up`: a server with the module and the dashboard beside it, for this machine alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tagcache::http::Auth;
use tagcache::memory;

use crate::args::Up;
use crate::output::{Failure, show};
use crate::process::Server;
use crate::{endpoint, token};

pub(crate) fn run(args: &Up, json: bool) -> Result<(), Failure> {
    // Before the server starts: from here on a signal ends the program in order, and takes the server along.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let (auth, made) = if let Some(auth) = token::auth(&args.endpoint)? {
        (auth, None)
    } else {
        let token = token::random()?;
        let auth = Auth::bearer(&token).map_err(|error| Failure::Because(error.to_string()))?;
        (auth, Some(token))
    };
    let listener = endpoint::bind(&args.endpoint)?;
    let module = module(args.module.as_deref())?;
    let failed = |error: Box<dyn std::error::Error>| Failure::Server(error.to_string());
    let server = Server::start(&module, args.port, &ended).map_err(failed)?;
    let redis = format!("redis://127.0.0.1:{}/", server.port());
    let watched = memory::Server::open(&redis)?;
    let admin = endpoint::build(&args.endpoint, &watched, auth)?;
    let url = format!("http://{}/", listener.local_addr()?);
    let version = server.version()?;
    let value = json!({"dashboard": url, "redis": redis, "token": made, "module": module, "server": version, "directory": server.dir()});
    show(json, &value, || {
        let port = server.port();
        let token = made
            .as_ref()
            .map_or_else(String::new, |token| format!("Token:     {token}\n"));
        format!(
            "{version} with {}\nServer:    {redis}\nDashboard: {url}\n{token}\nIn another terminal:\n\n  \
             redis-cli -p {port} CACHE.SET greeting hello EX 60 TAGS 2 lang:en page:1\n  \
             redis-cli -p {port} CACHE.GET greeting\n  \
             tagcache stats --redis {redis}\n  \
             tagcache invalidate --redis {redis} lang:en\n  \
             tagcache load-test --redis {redis} -n 100000\n\nCtrl-C ends it.\n",
            module.display()
        )
    })?;
    endpoint::serve(listener, admin, &ended)?;
    server.stop().map_err(failed)?;
    show(json, &json!({"stopped": true}), || {
        "\nServer stopped, its directory removed.\n".into()
    })
}

/// The module that was named, or the one that lies where it is likely to be.
fn module(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("tagcache.so")));
    let candidates: Vec<PathBuf> = match named {
        Some(named) => vec![named.to_owned()],
        None => beside
            .into_iter()
            .chain(["target/release/tagcache.so".into()])
            .collect(),
    };
    // The server changes into its own directory before it loads the module.
    candidates
        .iter()
        .find_map(|path| path.canonicalize().ok())
        .ok_or_else(|| {
            let looked: Vec<_> = candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Failure::Usage(format!(
                "no module at {}: `make build` builds it, --module names it",
                looked.join(" or ")
            ))
        })
}
