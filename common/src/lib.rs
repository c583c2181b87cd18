//! What every part of the platform shares: errors with stable codes, the configuration, the `--master` address, logging.

pub mod config;
pub mod error;
pub mod keys;
pub mod logging;
pub mod master;

pub use config::{Config, ConfigEntry, LoadOptions, Source};
pub use error::{Error, ErrorCode, Result};
pub use keys::Key;
pub use master::Master;
