//! The server of `--redis`.

use redis::{ErrorKind, ServerErrorKind};
use tagcache_admin::memory::Server;

use crate::args::At;
use crate::output::Failure;

/// Does not connect: an unreachable server may come back.
pub(crate) fn named(at: &At) -> Result<Server, Failure> {
    let server = Server::open(&at.redis).map_err(|error| wrong_url(&error))?;
    Ok(server.memory_limit(at.memory_limit))
}

/// The message omits the URL, which may contain a password.
pub(crate) fn wrong_url(error: &redis::RedisError) -> Failure {
    Failure::Usage(format!(
        "--redis is not redis://[user:password@]host[:port][/database]: {error}"
    ))
}

/// Checks that the server replies, so that an unreachable one is reported first.
pub(crate) fn server(at: &At) -> Result<Server, Failure> {
    let server = named(at)?;
    match server.command::<String>("PING", &[]) {
        Ok(_) => Ok(server),
        // An error reply is a reply too.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(server),
        Err(error) => Err(Failure::Server(format!(
            "{}: {}",
            address(&at.redis),
            Failure::server_message(&error)
        ))),
    }
}

/// The reason why the server has no figures of the module: the module is not loaded, or the user may not read them.
pub(crate) fn without_cache(server: &Server) -> Failure {
    match server.command::<redis::Value>("CACHE.STATS", &[]) {
        Err(error) => error.into(),
        Ok(_) => Failure::Server("the server did not answer CACHE.STATS at first".into()),
    }
}

/// The server's address, without the other parts of its URL.
fn address(url: &str) -> String {
    redis::Client::open(url).map_or_else(
        |_| "the server".into(),
        |client| client.get_connection_info().addr().to_string(),
    )
}
