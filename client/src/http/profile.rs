//! Heap profiles of this process.

use axum::response::Response;

use super::problem::Problem;

/// A gzipped pprof profile, for `go tool pprof` and what reads its format. Needs a process whose global allocator is
/// jemalloc and that was started with `_RJEM_MALLOC_CONF=prof:true,prof_active:true`.
#[cfg(feature = "jemalloc")]
pub(super) async fn heap_profile() -> Result<Response, Problem> {
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse as _;

    let off = || {
        Problem::new(
            StatusCode::CONFLICT,
            "Heap profiling is off: start the process with _RJEM_MALLOC_CONF=prof:true,prof_active:true",
        )
    };
    let mut control = match jemalloc_pprof::PROF_CTL.as_ref() {
        Some(control) => control.lock().await,
        None => return Err(off()),
    };
    if !control.activated() {
        return Err(off());
    }
    let profile = control.dump_pprof().map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no profile: {error}"),
        )
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"heap.pb.gz\"",
        ),
    ];
    Ok((headers, profile).into_response())
}

/// Without jemalloc there is nothing to profile.
#[cfg(not(feature = "jemalloc"))]
pub(super) async fn heap_profile() -> Result<Response, Problem> {
    Err(Problem::new(
        axum::http::StatusCode::NOT_IMPLEMENTED,
        "This build has no heap profiles: they need the feature `jemalloc`",
    ))
}
