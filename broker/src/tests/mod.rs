//! The broker beside a real client (librdkafka), and its answers in every version it offers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod versions;
mod wire;

use std::path::PathBuf;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Broker, BrokerError, BrokerOptions};

/// A running broker; its data is removed when the test is over.
struct Running {
    address: String,
    dir: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("broker-test-{}", uuid::Uuid::new_v4()));
        Self::start_in(dir, |_| {}).await
    }

    async fn start_in(dir: PathBuf, change: impl FnOnce(&mut BrokerOptions)) -> Self {
        let mut options = BrokerOptions::new(([127, 0, 0, 1], 0).into(), dir.clone());
        change(&mut options);
        let shutdown = CancellationToken::new();
        let broker = Broker::open(options, shutdown.clone()).await.unwrap();
        let address = broker.local_addr().to_string();
        let task = tokio::spawn(broker.serve());
        Self { address, dir, shutdown, task }
    }

    /// Stops it and keeps the data.
    async fn stop(self) -> PathBuf {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.dir
    }

    async fn stop_and_remove(self) {
        let dir = self.stop().await;
        std::fs::remove_dir_all(dir).unwrap();
    }
}
