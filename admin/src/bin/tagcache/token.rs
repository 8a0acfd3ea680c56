//! Tokens of the endpoint's callers.

use std::path::Path;

use tagcache_admin::http::Auth;

use crate::args::Endpoint;
use crate::output::Failure;

/// A token of 128 random bits.
pub(crate) fn random() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Because(format!("no random token: {error}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}

/// Authentication by the named files; `None` if there are none, unless `--insecure-no-auth` is set.
pub(crate) fn auth(endpoint: &Endpoint) -> Result<Option<Auth>, Failure> {
    if endpoint.insecure_no_auth {
        if !endpoint.address().ip().is_loopback() {
            let listen = endpoint.address();
            return Err(Failure::Usage(format!(
                "--insecure-no-auth is for loopback only, not for {listen}: everybody there would be an admin"
            )));
        }
        return Ok(Some(Auth::insecure_on_loopback()));
    }
    let Some(file) = &endpoint.admin_token_file else {
        return Ok(None);
    };
    let wrong = |file: &Path, error: tagcache_admin::http::AuthError| {
        Failure::Usage(format!("{}: {error}", file.display()))
    };
    let mut auth = Auth::bearer(&read(file)?).map_err(|error| wrong(file, error))?;
    if let Some(file) = &endpoint.reader_token_file {
        auth = auth
            .or_reader(&read(file)?)
            .map_err(|error| wrong(file, error))?;
    }
    Ok(Some(auth))
}
