//! The driver's side: a [`Session`] plans statements and runs them in this process or on a cluster; a [`RunClient`] submits runs and watches
//! them.
//!
//! ```no_run
//! # async fn example(config: std::sync::Arc<chainalytics_common::Config>) -> chainalytics_common::Result<()> {
//! use chainalytics_client::Session;
//! let master = "chainalytics://127.0.0.1:7077".parse()?;
//! let session = Session::connect(config, master).await?;
//! let rows = session.dataframe("SELECT count(*) FROM bronze_user_events").await?.collect().await;
//! # Ok(()) }
//! ```

mod cluster;
mod connect;
mod local;
mod reporter;
mod run_client;
mod run_context;
mod session;

pub use connect::http_url;
pub use reporter::{RunEnd, RunReporter};
pub use run_client::RunClient;
pub use run_context::{ProgressSink, RunContext};
pub use session::Session;
