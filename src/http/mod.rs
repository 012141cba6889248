//! `/metrics`, `/health` and `/health/ready` on a thread of their own.
//!
//! A slow scraper or a stuck health check can therefore never delay a query.

mod metrics;

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::view::View;

pub use metrics::encode;

/// Gathers what is shown; called for every request. Clients and servers may be left out.
pub type Gather = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = View> + Send>> + Send + Sync>;

const INDEX: &str = concat!(
    "Sluice ",
    env!("CARGO_PKG_VERSION"),
    "\n\n/metrics       numbers for Prometheus\n/health        200 while the process lives\n\
     /health/ready  200 while every shard has a primary, else 503 and the reasons\n"
);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

/// Answers requests on `listener` until `shutdown` ends.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    gather: Gather,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes(gather)).with_graceful_shutdown(shutdown).await
}

/// Runs [`serve`] on a new thread with its own runtime; the listener is already bound, so that a port
/// in use is an error at start.
///
/// # Errors
/// The thread or its runtime could not be made.
pub fn spawn(
    listener: std::net::TcpListener,
    gather: Gather,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        let served = runtime.block_on(async { serve(TcpListener::from_std(listener)?, gather, shutdown).await });
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP server ended");
        }
    })
}

fn routes(gather: Gather) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/metrics", get(metrics_page))
        .route("/health", get(async || ([(header::CONTENT_TYPE, JSON)], "{\"status\":\"alive\"}\n")))
        .route("/health/ready", get(ready))
        .with_state(gather)
}

async fn metrics_page(State(gather): State<Gather>) -> Response {
    match encode(gather().await) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(gather): State<Gather>) -> Response {
    let reasons = reasons(&gather().await);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, JSON)], ready_body(&reasons)).into_response()
}

/// Why the router should get no new clients; none when it should.
fn reasons(view: &View) -> Vec<String> {
    let shard = |shard: &crate::view::ShardRow| {
        let problem = match (&shard.problem, &shard.primary) {
            (Some(problem), _) => problem,
            (None, None) => "no primary",
            (None, Some(_)) => return None,
        };
        Some(format!("database {}, shard {}: {problem}", shard.database, shard.name))
    };
    let draining = view.draining.then(|| "the router is draining".to_owned());
    draining.into_iter().chain(view.shards.iter().filter_map(shard)).collect()
}

fn ready_body(reasons: &[String]) -> String {
    let mut body = format!("{{\"ready\":{},\"reasons\":[", reasons.is_empty());
    for (at, reason) in reasons.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        body.push_str(comma);
        json_string(&mut body, reason);
    }
    body.push_str("]}\n");
    body
}

fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped() {
        let body = ready_body(&["a \"b\"\\\n".to_owned(), "ü".to_owned()]);
        assert_eq!(body, "{\"ready\":false,\"reasons\":[\"a \\\"b\\\"\\\\\\u000a\",\"ü\"]}\n");
    }
}
