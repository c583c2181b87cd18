//! gRPC messages and services of ChainAnalytics, generated from `proto/chainalytics/v1/*.proto` at build time.
//!
//! [`v1::run_service_server::RunService`] is what clients and drivers call (submit, kill, logs, progress, validity of a query);
//! [`v1::executor_service_server::ExecutorService`] is what executors call (lease, driver status, driver logs). Both are served by the
//! scheduler on the port of Ballista's own services.

/// Package `chainalytics.v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[allow(rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("chainalytics.v1");

    impl RunState {
        /// True for the states that a run never leaves.
        #[must_use]
        pub fn is_terminal(self) -> bool {
            matches!(self, Self::Finished | Self::Failed | Self::Killed | Self::Lost)
        }

        /// The name shown to people and used in REST bodies and logs: lower case, stable.
        #[must_use]
        pub fn label(self) -> &'static str {
            match self {
                Self::Unspecified => "unspecified",
                Self::Submitted => "submitted",
                Self::Queued => "queued",
                Self::Running => "running",
                Self::Finished => "finished",
                Self::Failed => "failed",
                Self::Killed => "killed",
                Self::Lost => "lost",
            }
        }

        /// The inverse of [`RunState::label`].
        #[must_use]
        pub fn from_label(label: &str) -> Option<Self> {
            [Self::Submitted, Self::Queued, Self::Running, Self::Finished, Self::Failed, Self::Killed, Self::Lost]
                .into_iter()
                .find(|state| state.label() == label)
        }
    }

    impl DeployMode {
        /// `client` or `cluster`, as on the command line.
        #[must_use]
        pub fn label(self) -> &'static str {
            match self {
                Self::Unspecified | Self::Client => "client",
                Self::Cluster => "cluster",
            }
        }
    }

    impl Validity {
        /// Stable lower-case name.
        #[must_use]
        pub fn label(self) -> &'static str {
            match self {
                Self::Unknown => "unknown",
                Self::Ok => "ok",
                Self::ExecutorLost => "executor_lost",
                Self::StageRetried => "stage_retried",
                Self::NotSuccessful => "not_successful",
            }
        }
    }
}
