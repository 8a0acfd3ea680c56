//! The dashboard's page: files that are part of the program. Its URLs are relative, so that it works under any prefix.

use axum::extract::{OriginalUri, Path};
use axum::http::header::{self, HeaderName};
use axum::response::IntoResponse;

use super::problem::Problem;

const PAGE: &str = include_str!("dashboard/index.html");

/// Forbids sources on other origins, inline code and embedding in frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page(OriginalUri(uri): OriginalUri) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    // A browser resolves relative URLs against the page's path without its last segment: `/ops` needs a prefix, `/ops/`
    // does not.
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    let page = if last.is_empty() || !last.bytes().all(plain) {
        PAGE.to_owned()
    } else {
        PAGE.replace("\"assets/", &format!("\"{last}/assets/"))
    };
    (headers, page)
}

pub(super) async fn style() -> impl IntoResponse {
    asset(
        "text/css; charset=utf-8",
        include_str!("dashboard/dashboard.css"),
    )
}

pub(super) async fn script(Path(name): Path<String>) -> Result<impl IntoResponse, Problem> {
    let text = match name.as_str() {
        "dashboard.js" => include_str!("dashboard/dashboard.js"),
        "charts.js" => include_str!("dashboard/charts.js"),
        "names.js" => include_str!("dashboard/names.js"),
        "parts.js" => include_str!("dashboard/parts.js"),
        "request.js" => include_str!("dashboard/request.js"),
        _ => return Err(Problem::nothing_there()),
    };
    Ok(asset("text/javascript; charset=utf-8", text))
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        text,
    )
}
