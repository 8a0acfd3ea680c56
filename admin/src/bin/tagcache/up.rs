//! `tagcache up`: a server with the module and the dashboard beside it, for this machine alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tagcache_admin::alerts::Config;
use tagcache_admin::http::Auth;
use tagcache_admin::memory;

use crate::alerts::guide_rules;
use crate::args::Up;
use crate::output::{Failure, show};
use crate::process::Server;
use crate::{endpoint, signals, token, tour};

/// Path of the module in the Debian package and the container image.
const INSTALLED: &str = "/usr/lib/redis/modules/tagcache.so";

pub(crate) fn run(args: &Up, json: bool) -> Result<(), Failure> {
    // Before the server starts: from here on a signal ends the program in order, together with the server.
    let ended = signals::ended()?;
    let input = args
        .tour
        .then(|| tour::Input::read(args.input.as_deref()))
        .transpose()?;
    let module = module(args.module.as_deref())?;
    let outcome = if let (Some(input), true) = (&input, args.exit) {
        let server = start(&module, args.port, &ended)?;
        let outcome = tour(&server, &module, input, json);
        stop(server, json)?;
        outcome?
    } else {
        stay(args, &module, input.as_ref(), &ended, json)?
    };
    match outcome {
        Outcome::AsExpected => Ok(()),
        Outcome::Differs => Err(Failure::No),
    }
}

enum Outcome {
    AsExpected,
    Differs,
}

/// Runs server and dashboard until a signal.
fn stay(
    args: &Up,
    module: &Path,
    input: Option<&tour::Input>,
    ended: &AtomicBool,
    json: bool,
) -> Result<Outcome, Failure> {
    let (auth, made) = if let Some(auth) = token::auth(&args.endpoint)? {
        (auth, None)
    } else {
        let token = token::random()?;
        let auth = Auth::bearer(&token).map_err(|error| Failure::Because(error.to_string()))?;
        (auth, Some(token))
    };
    let listener = endpoint::bind_anywhere(&args.endpoint)?;
    let mut server = start(module, args.port, ended)?;
    let redis = format!("redis://127.0.0.1:{}/", server.port());
    // Before the dashboard reads from the server and publishes an entry of its own, since the tour's figures are exact.
    let outcome = match input {
        Some(input) => tour(&server, module, input, json)?,
        None => Outcome::AsExpected,
    };
    let watched = memory::Server::open(&redis)?;
    let rules = Config::from_yaml(&guide_rules("log"))?;
    let built = endpoint::build(&args.endpoint, listener, &watched, auth, Some(rules))?;
    let url = built.url()?;
    let version = server.version()?;
    let value = json!({"dashboard": url, "redis": redis, "token": made, "module": module, "server": version, "directory": server.dir()});
    show(json, &value, || {
        let port = server.port();
        // The path that started the program: in a checkout it is not in PATH.
        let program = std::env::args().next().unwrap_or_else(|| "tagcache".into());
        let token = made
            .as_ref()
            .map_or_else(String::new, |token| format!("Token:     {token}\n"));
        let commands = match input {
            Some(input) => tour::suggestions(port, input),
            None => format!(
                "  redis-cli -p {port} CACHE.SET greeting hello EX 60 TAGS 2 lang:en page:1\n  \
                 redis-cli -p {port} CACHE.GET greeting\n  \
                 {program} stats --redis {redis}\n  \
                 {program} invalidate --redis {redis} lang:en\n  \
                 {program} load-test --redis {redis} -n 100000\n"
            ),
        };
        format!(
            "{}Server:    {redis}\nDashboard: {url}\n{token}\nIn another terminal:\n\n\
             {commands}\nCtrl-C ends it.\n",
            // The tour has shown it already.
            if input.is_none() {
                heading(&version, module)
            } else {
                String::new()
            }
        )
    })?;
    endpoint::serve(built, || {
        if ended.load(Ordering::Relaxed) {
            return Some(Ok(()));
        }
        let status = server.exited().ok().flatten()?;
        Some(Err(Failure::Server(format!(
            "the server ended by itself ({status}):\n{}",
            server.end_of_log()
        ))))
    })?;
    stop(server, json)?;
    Ok(outcome)
}

fn heading(version: &str, module: &Path) -> String {
    format!("{version} with {}\n", module.display())
}

/// Shows the tour: as text, or in JSON its outcome.
fn tour(
    server: &Server,
    module: &Path,
    input: &tour::Input,
    json: bool,
) -> Result<Outcome, Failure> {
    let mut connection = server.connection()?;
    let differences = if json {
        tour::show(&mut connection, input, &mut std::io::sink())?
    } else {
        let mut out = std::io::stdout().lock();
        let version = server.version()?;
        writeln!(out, "{}", heading(&version, module))?;
        tour::show(&mut connection, input, &mut out)?
    };
    if json {
        let value = json!({"tour": {"source": input.source(), "packages": input.len(), "differences": differences}});
        show(json, &value, String::new)?;
    }
    Ok(if differences.is_empty() {
        Outcome::AsExpected
    } else {
        Outcome::Differs
    })
}

fn start(module: &Path, port: Option<u16>, ended: &AtomicBool) -> Result<Server, Failure> {
    Server::start(module, port, ended).map_err(|error| Failure::Server(error.to_string()))
}

fn stop(server: Server, json: bool) -> Result<(), Failure> {
    server
        .stop()
        .map_err(|error| Failure::Server(error.to_string()))?;
    show(json, &json!({"stopped": true}), || {
        "\nServer stopped, its directory removed.\n".into()
    })
}

/// The named module, or the first one that exists in the usual places.
fn module(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("tagcache.so")));
    let candidates: Vec<PathBuf> = match named {
        Some(named) => vec![named.to_owned()],
        None => beside
            .into_iter()
            .chain(["target/release/tagcache.so", INSTALLED].map(PathBuf::from))
            .collect(),
    };
    // As an absolute path: the server changes into its own directory before it loads the module.
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
