//! The server that was named.

use tagcache_admin::memory::Server;

use crate::args::At;
use crate::output::Failure;

pub(crate) fn server(at: &At) -> Result<Server, Failure> {
    open(&at.redis)
}

/// Checks that it answers: what follows would only say so later.
pub(crate) fn open(url: &str) -> Result<Server, Failure> {
    // The URL may hold a password.
    let server = Server::open(url).map_err(|error| Failure::Usage(format!("--redis: {error}")))?;
    server
        .command::<String>("PING", &[])
        .map_err(|error| Failure::Server(format!("{}: {}", address(url), Failure::told(&error))))?;
    Ok(server)
}

/// Where the server is, without what else its URL holds.
fn address(url: &str) -> String {
    redis::Client::open(url).map_or_else(
        |_| "the server".into(),
        |client| client.get_connection_info().addr().to_string(),
    )
}
