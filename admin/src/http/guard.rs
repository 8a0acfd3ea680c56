//! Checks before every request, and headers of every response.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::admin::Admin;
use super::auth::Access;

/// Address, caller, access: in this order, so that the limit applies to guessed tokens too.
pub(super) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let needed = if parts.method == Method::GET || parts.method == Method::HEAD {
        Access::Read
    } else {
        Access::Admin
    };
    let let_in = || {
        let address = admin.client_address(&parts);
        admin.limit().address(address)?;
        let caller = admin.auth().check(&parts, needed)?;
        // Callers that share a token are distinguished by their addresses.
        let shared_by = admin.auth().is_by_token().then_some(address);
        admin.limit().caller(&caller.name, shared_by.flatten())
    };
    match let_in() {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    }
}

/// Defaults for headers that the response does not set: no cache, frame, script or referrer may use it.
pub(super) async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let defaults = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in defaults {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
