//! The server that was named.

use redis::{ErrorKind, ServerErrorKind};
use tagcache_admin::memory::Server;

use crate::args::At;
use crate::output::Failure;

/// Does not connect: a server that is away may come back.
pub(crate) fn named(at: &At) -> Result<Server, Failure> {
    let server = Server::open(&at.redis).map_err(|error| wrong_url(&error))?;
    Ok(server.memory_limit(at.memory_limit))
}

/// The URL itself may hold a password.
pub(crate) fn wrong_url(error: &redis::RedisError) -> Failure {
    Failure::Usage(format!(
        "--redis is not redis://[user:password@]host[:port][/database]: {error}"
    ))
}

/// Checks that it answers: what follows would only say so later.
pub(crate) fn server(at: &At) -> Result<Server, Failure> {
    let server = named(at)?;
    match server.command::<String>("PING", &[]) {
        Ok(_) => Ok(server),
        // It answers, if only this.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(server),
        Err(error) => Err(Failure::Server(format!(
            "{}: {}",
            address(&at.redis),
            Failure::told(&error)
        ))),
    }
}

/// Why it has no figures of the module: it lacks the module, or refuses to report them.
pub(crate) fn without_cache(server: &Server) -> Failure {
    match server.command::<redis::Value>("CACHE.STATS", &[]) {
        Err(error) => error.into(),
        Ok(_) => Failure::Server("the server did not answer CACHE.STATS at first".into()),
    }
}

/// Where the server is, without what else its URL holds.
fn address(url: &str) -> String {
    redis::Client::open(url).map_or_else(
        |_| "the server".into(),
        |client| client.get_connection_info().addr().to_string(),
    )
}
