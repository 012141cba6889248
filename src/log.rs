//! Where log lines go: standard error, as text or JSON.
//!
//! Nothing here can see a secret: [`crate::config::Secret`] does not print itself, and statements and
//! parameters are logged by nobody.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Why no log could be set up.
#[derive(Debug)]
pub struct LogError(String);

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LogError {}

/// Sends the log of this process to standard error. To be called once, by `main`.
///
/// # Errors
/// A level filter that makes no sense, or a second call.
pub fn init(log: &Log) -> Result<(), LogError> {
    subscriber(log, io::stderr, io::stderr().is_terminal())?.try_init().map_err(|error| LogError(error.to_string()))
}

/// Checks a level filter as of `RUST_LOG`, without setting anything up.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = |error| LogError(format!("log level \"{level}\": {error}; try \"info\" or \"info,pgsluice=debug\""));
    // The library's own name is not what people know it by.
    let level = level.split(',').map(|part| match part.trim().strip_prefix("sluice") {
        Some(rest) if rest.is_empty() || rest.starts_with(['=', ':']) => format!("pgsluice{rest}"),
        _ => part.trim().to_owned(),
    });
    EnvFilter::builder().parse(level.collect::<Vec<_>>().join(",")).map_err(wrong)
}

/// The subscriber, writing wherever a test wants it.
fn subscriber<W>(log: &Log, writer: W, colours: bool) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&log.level)?).with_writer(writer).with_ansi(colours);
    Ok(match log.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("the sink").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let log = Log { format, level: level.to_owned() };
        let subscriber = subscriber(&log, move || writer.clone(), false).expect("a subscriber");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(database = "app", "paused");
            tracing::debug!("details");
        });
        let bytes = sink.0.lock().expect("the sink").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn lines_are_json_or_text_and_filtered() {
        let json = logged(LogFormat::Json, "info");
        assert!(json.contains("\"message\":\"paused\"") && json.contains("\"database\":\"app\""), "{json}");
        assert_eq!(json.lines().count(), 1);
        let text = logged(LogFormat::Text, "warn,sluice=debug");
        assert!(text.contains("paused database=\"app\"") && text.contains("details"), "{text}");
        assert_eq!(logged(LogFormat::Text, "error"), "");
    }

    #[test]
    fn a_wrong_level_is_an_error() {
        assert!(check_level("info,sluice=loud").is_err());
        assert!(check_level("debug").is_ok());
    }
}
