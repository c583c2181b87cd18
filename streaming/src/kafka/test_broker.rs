//! The embedded broker, within the test's process. librdkafka's mock cluster would not do: it leaves DescribeTopics, which tells topic ids, without an answer.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use chainalytics_broker::BrokerOptions;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) struct Broker {
    address: SocketAddr,
    serving: Mutex<Option<Serving>>,
    producer: BaseProducer,
    admin: AdminClient<DefaultClientContext>,
    folder: TempDir,
}

struct Serving {
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Serves in a thread of its own, as the tests' runtimes come and go; with the address.
    fn start(folder: &Path, listen: SocketAddr) -> (Self, SocketAddr) {
        let shutdown = CancellationToken::new();
        let (options, token) = (BrokerOptions::new(listen, folder.to_owned()), shutdown.clone());
        let (bound, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async move {
                let broker = chainalytics_broker::Broker::open(options, token).await.unwrap();
                bound.send(broker.local_addr()).unwrap();
                broker.serve().await.unwrap();
            });
        });
        (Self { shutdown, thread }, address.recv_timeout(Duration::from_secs(20)).unwrap())
    }

    fn stop(self) {
        self.shutdown.cancel();
        self.thread.join().unwrap();
    }
}

impl Broker {
    pub(crate) fn start(topics: &[&str], partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (serving, address) = Serving::start(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address.to_string());
        let admin = config.create().unwrap();
        let producer = config.set("linger.ms", "5").create().unwrap();
        let broker = Self { address, serving: Mutex::new(Some(serving)), producer, admin, folder };
        for topic in topics {
            broker.create(topic, partitions);
        }
        broker
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
        let made = futures::executor::block_on(self.admin.create_topics(&topics, &AdminOptions::new())).unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    pub(crate) fn servers(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn send(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
        for value in values {
            let record = BaseRecord::to(topic).partition(partition).key("k").payload(&value);
            self.producer.send(record).map_err(|(e, _)| e).unwrap();
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }

    pub(crate) fn down(&self) {
        if let Some(serving) = self.serving.lock().take() {
            serving.stop();
        }
    }

    pub(crate) fn up(&self) {
        *self.serving.lock() = Some(Serving::start(self.folder.path(), self.address).0);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.down();
    }
}
