//! Authentication and authorisation of callers.

use std::fmt;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header, uri::Authority};
use subtle::{Choice, ConstantTimeEq as _};

use super::limit::of_connection;
use super::problem::Problem;

/// Length of the shortest token that is accepted: 16 characters of base64 are 96 bits.
const MIN_TOKEN: usize = 16;

/// The requests that a caller may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read figures.
    Read,
    /// Read, clear, invalidate and dump profiles.
    Admin,
}

/// A caller that may use the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name that the rate limit counts by, such as a user's id.
    pub name: String,
    /// The caller's access.
    pub access: Access,
}

/// The reason why an [`Auth`] predicate refuses a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No user is signed in: 401.
    Unauthorized,
    /// The user is signed in but has no access: 403.
    Forbidden,
}

/// The reason why a token is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The token is short enough to be guessed.
    #[error("the admin token has {0} characters, at least {MIN_TOKEN} are needed")]
    Short(usize),
    /// The token cannot be sent as a header.
    #[error("the admin token has a character other than the printable ones of ASCII")]
    NotAscii,
}

type Predicate = dyn Fn(&Parts) -> Result<Caller, Denied> + Send + Sync;

/// The method that authenticates callers.
#[derive(Clone)]
pub struct Auth(Kind);

#[derive(Clone)]
enum Kind {
    Tokens(Vec<(Arc<str>, Access)>),
    Predicate(Arc<Predicate>),
    None,
}

impl Auth {
    /// A request with `Authorization: Bearer <token>` has admin access. The time of the comparison reveals nothing
    /// about the token, its length included.
    ///
    /// # Errors
    /// When the token is shorter than 16 characters, or contains other characters than printable ASCII ones.
    pub fn bearer(token: &str) -> Result<Self, AuthError> {
        Self(Kind::Tokens(Vec::new())).or_token(token, Access::Admin)
    }

    /// Accepts a second token for read access only; its holder gets 403 for everything else. Has no effect if callers
    /// are not authenticated by tokens.
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

    /// The application decides by its own sessions or users.
    pub fn predicate(
        predicate: impl Fn(&Parts) -> Result<Caller, Denied> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Predicate(Arc::new(predicate)))
    }

    /// Every caller on this machine has admin access. A request must come from a loopback address and name a loopback
    /// host, so that a web page elsewhere cannot reach the endpoint through a browser on this machine (DNS rebinding).
    ///
    /// [`serve`](super::serve) refuses to listen on addresses other than loopback ones. An application that mounts the
    /// router must serve with connection info (`into_make_service_with_connect_info::<SocketAddr>()`): without it no
    /// caller's address is known, and every request is refused. Do not put a proxy in front: to the endpoint all of its
    /// requests come from this machine. Requests that a proxy marks (`Forwarded`, `X-Forwarded-For`, `X-Real-IP`,
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

    /// Returns the caller if it has the access that the request needs.
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

    /// Browsers send a request's origin; other clients do not.
    fn is_cross_site(&self, request: &Parts) -> bool {
        if let Some(site) = request.headers.get("sec-fetch-site") {
            return site != "same-origin" && site != "none";
        }
        // Older browsers, and all browsers on a page that came by plain HTTP, send the origin only. With tokens the
        // origin proves nothing: no browser adds a token by itself, and a proxy may have changed the host.
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
    // Compares with every token, so that the time reveals nothing about the others.
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

/// The time depends on the length of `given` only, not on how many bytes match. `ct_eq` on slices returns early if the
/// lengths differ, which would reveal the token's length.
fn same(token: &[u8], given: &[u8]) -> Choice {
    let mut same = token.len().ct_eq(&given.len());
    for (byte, right) in given.iter().zip(token.iter().cycle()) {
        same &= byte.ct_eq(right);
    }
    same
}

/// The host that the request names: a page in a browser cannot forge that header.
fn host_of(request: &Parts) -> Option<Authority> {
    let host = request.headers.get(header::HOST);
    host.map_or_else(
        // HTTP/2 has no such header.
        || request.uri.authority().cloned(),
        |host| host.to_str().ok()?.parse().ok(),
    )
}

/// Checks the address of the connection, since a header can be forged. A header that names a proxy is believed, though:
/// a proxy forwards requests from other machines.
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
