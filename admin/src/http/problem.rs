//! Errors as `application/problem+json` (RFC 9457).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use tagcache::{Error, Remedy};

/// An error of a request.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
    challenge: &'static str,
}

/// The response to a request without a token names no error (RFC 6750, 3.1).
const CHALLENGE: &str = "Bearer realm=\"tagcache\"";
const WRONG_TOKEN: &str = "Bearer realm=\"tagcache\", error=\"invalid_token\"";

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
            challenge: CHALLENGE,
        }
    }

    pub(super) fn nothing_there() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is nothing at this address")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "An admin token is needed: Authorization: Bearer …",
        )
    }

    pub(super) fn wrong_token() -> Self {
        Self {
            challenge: WRONG_TOKEN,
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "This token is not one of this endpoint's",
            )
        }
    }

    pub(super) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn too_many(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests from this caller",
            )
        }
    }

    /// The server refused the command or did not reply.
    pub(super) fn server(error: &redis::RedisError) -> Self {
        match (error.code(), error.detail()) {
            (Some("ERR"), Some(detail)) if detail.starts_with("unknown command") => Self::new(
                StatusCode::BAD_GATEWAY,
                "The cache server has not loaded the module (tagcache doctor names the remedy)",
            ),
            // The server's own message about the arguments.
            (Some("ERR" | "WRONGTYPE"), Some(detail)) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            _ => Self::new(
                StatusCode::BAD_GATEWAY,
                format!("The cache server: {error}"),
            ),
        }
    }

    /// The cache, or a server behind it, refused the command or did not reply.
    pub(super) fn cache(error: &Error) -> Self {
        let status = match error.remedy() {
            Remedy::FixCall => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, format!("The cache: {error}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(self.challenge),
            );
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: a caller that retries then is accepted.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
