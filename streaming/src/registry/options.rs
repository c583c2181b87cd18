use std::fmt;
use std::time::Duration;

use chainalytics_common::config::redact_url;
use chainalytics_common::{Config, keys};
use serde::{Deserialize, Serialize};

/// Where the registry is and how to speak to it. Serialises into physical plans, so that executors need no
/// configuration of their own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Serialize, Deserialize)]
pub struct RegistryOptions {
    /// Base URL.
    pub url: String,
    /// `user:password` of basic authentication.
    #[serde(default)]
    pub user_info: Option<String>,
    /// Time for one request, milliseconds.
    pub request_timeout_ms: u64,
    /// Attempts of a request that failed for a reason that may pass.
    pub attempts_max: u32,
}

impl RegistryOptions {
    /// Options with defaults for everything but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), user_info: None, request_timeout_ms: 10_000, attempts_max: 5 }
    }

    /// The registry that the configuration names; `None` without `schema.registry.url`.
    pub fn from_config(config: &Config) -> Option<Self> {
        let url: String = config.get(&keys::SCHEMA_REGISTRY_URL);
        if url.is_empty() {
            return None;
        }
        let user: String = config.get(&keys::SCHEMA_REGISTRY_USER);
        let password: String = config.get(&keys::SCHEMA_REGISTRY_PASSWORD);
        let user_info = (!user.is_empty()).then(|| format!("{user}:{password}"));
        Some(Self { user_info, ..Self::new(url) })
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

impl fmt::Debug for RegistryOptions {
    // By hand: plans are printed, passwords must not be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions").field("url", &redact_url(&self.url)).finish_non_exhaustive()
    }
}
