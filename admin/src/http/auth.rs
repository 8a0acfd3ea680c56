//! Who may do what.

use std::fmt;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header, uri::Authority};
use subtle::{Choice, ConstantTimeEq as _};

use super::limit::of_connection;
use super::problem::Problem;

/// Shortest token that is accepted: 16 characters of base64 are 96 bits.
const MIN_TOKEN: usize = 16;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Look at figures.
    Read,
    /// Look, clear, invalidate and dump profiles.
    Admin,
}

/// A caller that may use the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whom the rate limit counts for, such as a user's id.
    pub name: String,
    /// What they may do.
    pub access: Access,
}

/// Why an [`Auth`] predicate lets somebody not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody is signed in: 401.
    Unauthorized,
    /// Somebody is, who may not: 403.
    Forbidden,
}

/// Why a token is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// It could be guessed.
    #[error("the admin token has {0} characters, at least {MIN_TOKEN} are needed")]
    Short(usize),
    /// It cannot be sent as a header.
    #[error("the admin token has a character other than the printable ones of ASCII")]
    NotAscii,
}

type Predicate = dyn Fn(&Parts) -> Result<Caller, Denied> + Send + Sync;

/// How callers are distinguished.
#[derive(Clone)]
pub struct Auth(Kind);

#[derive(Clone)]
enum Kind {
    Tokens(Vec<(Arc<str>, Access)>),
    Predicate(Arc<Predicate>),
    None,
}

impl Auth {
    /// Whoever sends `Authorization: Bearer <token>` is an admin. How long the comparison takes tells nothing about
    /// the token, its length included.
    ///
    /// # Errors
    /// When the token has less than 16 characters, or others than the printable ones of ASCII.
    pub fn bearer(token: &str) -> Result<Self, AuthError> {
        Self(Kind::Tokens(Vec::new())).or_token(token, Access::Admin)
    }

    /// Lets in a second token that may only look; its holder gets 403 for everything else. Does nothing where
    /// callers are not distinguished by tokens.
    ///
    /// # Errors
    /// As [`Self::bearer`].
    pub fn or_reader(self, token: &str) -> Result<Self, AuthError> {
        self.or_token(token, Access::Read)
    }

    fn or_token(mut self, token: &str, access: Access) -> Result<Self, AuthError> {
        let token = token.trim();
        if token.chars().count() < MIN_TOKEN {
            return Err(AuthError::Short(token.chars().count()));
        }
        if !token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(AuthError::NotAscii);
        }
        if let Kind::Tokens(tokens) = &mut self.0 {
            tokens.push((token.into(), access));
        }
        Ok(self)
    }

    /// The application decides, by its own sessions or users.
    pub fn predicate(
        predicate: impl Fn(&Parts) -> Result<Caller, Denied> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Predicate(Arc::new(predicate)))
    }

    /// Everybody on this machine is an admin. A request must come from a loopback address, and name a loopback host, so
    /// that a web page elsewhere cannot reach it through the browser of somebody here (DNS rebinding).
    ///
    /// [`serve`](super::serve) refuses to listen on other addresses than loopback ones. An application that mounts the
    /// router must serve with connection info (`into_make_service_with_connect_info::<SocketAddr>()`): without it
    /// nobody's address is known, and every request is refused. Do not put a proxy before it: to the endpoint all of
    /// its requests come from this machine. Those that a proxy marks (`Forwarded`, `X-Forwarded-For`, `X-Real-IP`,
    /// `Via`) are refused.
    pub fn insecure_on_loopback() -> Self {
        Self(Kind::None)
    }

    pub(super) fn is_by_token(&self) -> bool {
        matches!(self.0, Kind::Tokens(_))
    }

    pub(super) fn is_insecure(&self) -> bool {
        matches!(self.0, Kind::None)
    }

    /// Lets a request in that needs this access.
    pub(super) fn check(&self, request: &Parts, needed: Access) -> Result<Caller, Problem> {
        let caller = match &self.0 {
            Kind::Tokens(tokens) => {
                let given = token_of(&request.headers).ok_or_else(Problem::unauthorized)?;
                by_token(tokens, given).ok_or_else(Problem::wrong_token)?
            }
            Kind::Predicate(predicate) => predicate(request).map_err(|denied| match denied {
                Denied::Unauthorized => Problem::unauthorized(),
                Denied::Forbidden => Problem::forbidden("This user may not use the admin endpoint"),
            })?,
            Kind::None if !comes_from_here(request) => {
                return Err(Problem::forbidden(
                    "Without authorisation only requests of this machine are answered",
                ));
            }
            Kind::None if !names_loopback(request) => {
                return Err(Problem::forbidden(
                    "Without authorisation only a loopback host name is answered",
                ));
            }
            Kind::None => Caller {
                name: "loopback".into(),
                access: Access::Admin,
            },
        };
        if needed == Access::Admin && self.is_cross_site(request) {
            return Err(Problem::forbidden(
                "The request was made by a page of another site",
            ));
        }
        if caller.access < needed {
            return Err(Problem::forbidden("This caller may only look"));
        }
        Ok(caller)
    }

    /// Browsers say where a request comes from; what is no browser does not.
    fn is_cross_site(&self, request: &Parts) -> bool {
        if let Some(site) = request.headers.get("sec-fetch-site") {
            return site != "same-origin" && site != "none";
        }
        // Older browsers, and all of them where the page came by plain HTTP, name the origin alone. A token no browser
        // adds by itself, and a proxy may have changed the host: there the origin proves nothing.
        let Some(origin) = request.headers.get(header::ORIGIN) else {
            return false;
        };
        let origin = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.parse::<Uri>().ok());
        let origin = origin.as_ref().and_then(Uri::authority);
        !self.is_by_token() && (origin.is_none() || origin != host_of(request).as_ref())
    }
}

fn token_of(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = given.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| given.trim())
        .filter(|given| !given.is_empty())
}

fn by_token(tokens: &[(Arc<str>, Access)], given: &str) -> Option<Caller> {
    let mut found = None;
    // All of them, whichever matches: the time tells nothing about the others.
    for (i, (token, access)) in tokens.iter().enumerate() {
        if bool::from(same(token.as_bytes(), given.as_bytes())) {
            found = Some(Caller {
                name: format!("token {i}"),
                access: *access,
            });
        }
    }
    found
}

/// Takes as long as `given` is, however much of it is right. Slices of other lengths `ct_eq` refuses at once, which
/// would tell the token's length.
fn same(token: &[u8], given: &[u8]) -> Choice {
    let mut same = token.len().ct_eq(&given.len());
    for (byte, right) in given.iter().zip(token.iter().cycle()) {
        same &= byte.ct_eq(right);
    }
    same
}

/// Whom the request is for: a browser's page cannot make up that header.
fn host_of(request: &Parts) -> Option<Authority> {
    let host = request.headers.get(header::HOST);
    host.map_or_else(
        // HTTP/2 has no such header.
        || request.uri.authority().cloned(),
        |host| host.to_str().ok()?.parse().ok(),
    )
}

/// By the connection alone: a header may say anything. That there is a proxy is believed, though: it passes on what came
/// from elsewhere.
fn comes_from_here(request: &Parts) -> bool {
    let passed_on = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
    of_connection(request).is_some_and(|peer| peer.to_canonical().is_loopback())
        && !passed_on
            .iter()
            .any(|name| request.headers.contains_key(*name))
}

fn names_loopback(request: &Parts) -> bool {
    host_of(request).is_some_and(|authority| {
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Tokens(_) => "Auth(bearer)",
            Kind::Predicate(_) => "Auth(predicate)",
            Kind::None => "Auth(none, loopback only)",
        })
    }
}
