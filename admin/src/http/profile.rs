//! Heap profiles of this process.

use axum::response::Response;

use super::problem::Problem;

/// A gzipped pprof profile, for `go tool pprof` and tools that read its format. Needs a process whose global allocator
/// is jemalloc and that was started with `_RJEM_MALLOC_CONF=prof:true,prof_active:true`.
#[cfg(feature = "jemalloc")]
pub(super) async fn heap_profile() -> Result<Response, Problem> {
    use std::sync::Arc;

    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse as _;
    use jemalloc_pprof::PROF_CTL;

    let off = || {
        Problem::new(
            StatusCode::CONFLICT,
            "Heap profiling is off: start the process with _RJEM_MALLOC_CONF=prof:true,prof_active:true",
        )
    };
    let control = Arc::clone(PROF_CTL.as_ref().ok_or_else(off)?);
    let mut control = control.lock_owned().await;
    if !control.activated() {
        return Err(off());
    }
    // The dump is written to a file, so it must not block an async worker thread.
    let dump = tokio::task::spawn_blocking(move || control.dump_pprof()).await;
    let failed = |error: String| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no profile: {error}"),
        )
    };
    let profile = dump
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"heap.pb.gz\"",
        ),
    ];
    Ok((headers, profile).into_response())
}

/// Without jemalloc there is no profile.
#[cfg(not(feature = "jemalloc"))]
pub(super) async fn heap_profile() -> Result<Response, Problem> {
    Err(Problem::new(
        axum::http::StatusCode::NOT_IMPLEMENTED,
        "This build has no heap profiles: they need the feature `jemalloc`",
    ))
}
