//! Log lines of every process: to stderr, filtered by `log.level` (or `RUST_LOG`), as text or JSON lines.

use tracing_subscriber::EnvFilter;

use crate::{Config, Error, ErrorCode, Result, keys};

/// Directives for libraries whose `info` is too much for an operator.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,sqlx=warn,rustls=warn,reqwest=warn,librdkafka=error,rustyline=warn,datafusion=warn,ballista=warn,ballista_core=warn,ballista_executor=warn,ballista_scheduler=warn";

/// Starts logging for this process. A second call does nothing, so tests may call it.
///
/// # Errors
/// `Config` if `level` is not a filter directive of `tracing` (`info`, `debug`, `chainalytics_scheduler=trace`, ...).
pub fn init(level: &str, json: bool) -> Result<()> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("{level},{QUIET}"));
    let filter = EnvFilter::try_new(&directives).map_err(|e| Error::new(ErrorCode::Config, format!("log.level {directives:?} is no filter: {e}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    let _already_started = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
    Ok(())
}

/// As [`init`], with `log.level` and `log.format` of the configuration.
///
/// # Errors
/// As [`init`].
pub fn init_from(config: &Config) -> Result<()> {
    init(&config.get(&keys::LOG_LEVEL), config.get(&keys::LOG_FORMAT) == "json")
}
