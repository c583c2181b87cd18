//! Which topics exist, and their partitions' logs.
//!
//! On disk: `topics/<name>/topic.json` and `topics/<name>/<partition>/<base offset>.log`. A topic appears with the rename
//! of its finished directory and disappears with the rename back, so a kill leaves no half topic.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::{LogLimits, PartitionLog};
use crate::options::BrokerOptions;

const META_FILE: &str = "topic.json";
/// Where directories are built before, and moved to after, their life.
const STAGING_DIR: &str = "staging";

/// Settings that a topic may carry; everything else is refused so that no setting is silently without effect.
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const SEGMENT_BYTES: &str = "segment.bytes";
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const CLEANUP_POLICY: &str = "cleanup.policy";

/// A refusal: the protocol's code and a text for the person who reads it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TopicError {
    /// The protocol's code.
    pub code: ResponseError,
    /// What and why.
    pub message: String,
}

impl TopicError {
    fn new(code: ResponseError, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        Self::new(ResponseError::KafkaStorageError, format!("{what}: {error}"))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TopicMeta {
    name: String,
    id: Uuid,
    partitions: i32,
    #[serde(default)]
    configs: BTreeMap<String, String>,
}

/// A topic.
#[derive(Debug)]
pub struct Topic {
    meta: TopicMeta,
    limits: LogLimits,
    partitions: Vec<Arc<PartitionLog>>,
}

impl Topic {
    /// Name.
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// Differs between a topic and another of the same name created after its deletion.
    pub fn id(&self) -> Uuid {
        self.meta.id
    }

    /// Logs by partition number.
    pub fn partitions(&self) -> &[Arc<PartitionLog>] {
        &self.partitions
    }

    /// The log of one partition.
    pub fn partition(&self, index: i32) -> Option<&Arc<PartitionLog>> {
        usize::try_from(index).ok().and_then(|i| self.partitions.get(i))
    }

    /// Limits that hold for this topic.
    pub fn limits(&self) -> &LogLimits {
        &self.limits
    }

    /// Effective settings: name, value, whether the topic sets it itself.
    pub fn configs(&self) -> Vec<(&'static str, String, bool)> {
        let set = |key: &str| self.meta.configs.contains_key(key);
        let retention_ms = self.limits.retention.map_or(-1, |r| r.as_millis() as i64);
        let retention_bytes = self.limits.retention_bytes.map_or(-1, |b| b as i64);
        vec![
            (RETENTION_MS, retention_ms.to_string(), set(RETENTION_MS)),
            (RETENTION_BYTES, retention_bytes.to_string(), set(RETENTION_BYTES)),
            (SEGMENT_BYTES, self.limits.segment_bytes.to_string(), set(SEGMENT_BYTES)),
            (MAX_MESSAGE_BYTES, self.limits.max_batch_bytes.to_string(), set(MAX_MESSAGE_BYTES)),
            (CLEANUP_POLICY, "delete".to_owned(), set(CLEANUP_POLICY)),
        ]
    }
}

#[derive(Debug, Default)]
struct Registry {
    by_name: BTreeMap<String, Arc<Topic>>,
    names_by_id: HashMap<Uuid, String>,
}

/// All topics. Functions that change something block on the file system.
#[derive(Debug)]
pub struct Topics {
    root: PathBuf,
    staging: PathBuf,
    defaults: LogLimits,
    topics_max: usize,
    partitions_max: usize,
    registry: RwLock<Registry>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Topics {
    /// Opens everything under the data directory and repairs it.
    pub fn open(options: &BrokerOptions) -> io::Result<Self> {
        let root = options.data_dir.join("topics");
        let staging = options.data_dir.join(STAGING_DIR);
        std::fs::create_dir_all(&root)?;
        // what a kill interrupted while it was being made or removed
        if staging.exists() {
            std::fs::remove_dir_all(&staging)?;
        }
        std::fs::create_dir_all(&staging)?;
        let mut registry = Registry::default();
        for entry in std::fs::read_dir(&root)? {
            let dir = entry?.path();
            if !dir.is_dir() {
                continue;
            }
            let meta: TopicMeta = serde_json::from_slice(&std::fs::read(dir.join(META_FILE))?)?;
            let limits = limits_of(&meta.configs, &options.log).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.message))?;
            let partitions =
                (0..meta.partitions).map(|p| PartitionLog::open(&dir.join(p.to_string())).map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
            registry.names_by_id.insert(meta.id, meta.name.clone());
            registry.by_name.insert(meta.name.clone(), Arc::new(Topic { meta, limits, partitions }));
        }
        Ok(Self {
            root,
            staging,
            defaults: options.log,
            topics_max: options.topics_max,
            partitions_max: options.partitions_max,
            registry: RwLock::new(registry),
            changing: Mutex::new(()),
        })
    }

    /// A topic by name.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.registry.read().by_name.get(name).cloned()
    }

    /// A topic by id.
    pub fn get_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        let registry = self.registry.read();
        registry.names_by_id.get(&id).and_then(|name| registry.by_name.get(name)).cloned()
    }

    /// All topics by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.registry.read().by_name.values().cloned().collect()
    }

    /// Creates a topic; with `validate_only` says whether it could.
    pub fn create(
        &self,
        name: &str,
        partitions: i32,
        configs: BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<Option<Arc<Topic>>, TopicError> {
        check_name(name)?;
        let _changing = self.changing.lock();
        if self.get(name).is_some() {
            let message = format!("topic '{name}' already exists");
            return Err(TopicError::new(ResponseError::TopicAlreadyExists, message));
        }
        self.check_room(1, partitions)?;
        let limits = limits_of(&configs, &self.defaults)?;
        if validate_only {
            return Ok(None);
        }
        let meta = TopicMeta { name: name.to_owned(), id: Uuid::new_v4(), partitions, configs };
        let built = self.staging.join(meta.id.to_string());
        let make = || -> io::Result<Vec<Arc<PartitionLog>>> {
            for p in 0..partitions {
                std::fs::create_dir_all(built.join(p.to_string()))?;
            }
            std::fs::write(built.join(META_FILE), serde_json::to_vec_pretty(&meta)?)?;
            let dir = self.root.join(name);
            std::fs::rename(&built, &dir)?;
            (0..partitions).map(|p| PartitionLog::open(&dir.join(p.to_string())).map(Arc::new)).collect()
        };
        let logs = make().map_err(|e| TopicError::io(&format!("cannot create topic '{name}'"), &e))?;
        let topic = Arc::new(Topic { meta, limits, partitions: logs });
        let mut registry = self.registry.write();
        registry.names_by_id.insert(topic.id(), name.to_owned());
        registry.by_name.insert(name.to_owned(), Arc::clone(&topic));
        Ok(Some(topic))
    }

    /// Adds partitions up to `count`.
    pub fn grow(&self, name: &str, count: i32, validate_only: bool) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let topic = self.get(name).ok_or_else(|| unknown(name))?;
        let have = topic.meta.partitions;
        if count <= have {
            let message = format!("topic '{name}' has {have} partitions already");
            return Err(TopicError::new(ResponseError::InvalidPartitions, message));
        }
        self.check_room(0, count - have)?;
        if validate_only {
            return Ok(());
        }
        let meta = TopicMeta { partitions: count, ..topic.meta.clone() };
        let dir = self.root.join(name);
        let make = || -> io::Result<Vec<Arc<PartitionLog>>> {
            let added = (have..count).map(|p| PartitionLog::open(&dir.join(p.to_string())).map(Arc::new));
            let mut logs = topic.partitions.clone();
            logs.extend(added.collect::<io::Result<Vec<_>>>()?);
            let pending = dir.join(format!("{META_FILE}.new"));
            std::fs::write(&pending, serde_json::to_vec_pretty(&meta)?)?;
            std::fs::rename(pending, dir.join(META_FILE))?;
            Ok(logs)
        };
        let logs = make().map_err(|e| TopicError::io(&format!("cannot extend topic '{name}'"), &e))?;
        let grown = Arc::new(Topic { meta, limits: topic.limits, partitions: logs });
        self.registry.write().by_name.insert(name.to_owned(), grown);
        Ok(())
    }

    /// Deletes a topic with its data. Returns its id.
    pub fn delete(&self, name: &str) -> Result<Uuid, TopicError> {
        let _changing = self.changing.lock();
        let topic = self.get(name).ok_or_else(|| unknown(name))?;
        let gone = self.staging.join(topic.id().to_string());
        std::fs::rename(self.root.join(name), &gone).map_err(|e| TopicError::io(&format!("cannot delete topic '{name}'"), &e))?;
        {
            let mut registry = self.registry.write();
            registry.by_name.remove(name);
            registry.names_by_id.remove(&topic.id());
        }
        if let Err(error) = std::fs::remove_dir_all(&gone) {
            tracing::warn!(topic = name, %error, "files of a deleted topic remain until the next start");
        }
        Ok(topic.id())
    }

    /// Largest producer id in any log.
    pub fn largest_producer_id(&self) -> Option<i64> {
        let logs = self.all();
        logs.iter().flat_map(|t| t.partitions.iter()).filter_map(|p| p.largest_producer_id()).max()
    }

    /// Forces everything to disk; failures are logged and tried again at the next interval.
    pub fn flush(&self) {
        for topic in self.all() {
            for (partition, log) in topic.partitions.iter().enumerate() {
                if let Err(error) = log.flush() {
                    tracing::error!(topic = topic.name(), partition, %error, "flush failed");
                }
            }
        }
    }

    /// Removes what retention no longer covers.
    pub fn enforce_retention(&self) {
        for topic in self.all() {
            for (partition, log) in topic.partitions.iter().enumerate() {
                match log.enforce_retention(&topic.limits) {
                    Ok(0) => {}
                    Ok(segments) => {
                        let log_start = log.log_start();
                        tracing::info!(topic = topic.name(), partition, segments, log_start, "retention");
                    }
                    Err(error) => tracing::error!(topic = topic.name(), partition, %error, "retention failed"),
                }
            }
        }
    }

    fn check_room(&self, topics: usize, partitions: i32) -> Result<(), TopicError> {
        let wanted = usize::try_from(partitions).unwrap_or(0);
        if wanted == 0 {
            return Err(TopicError::new(ResponseError::InvalidPartitions, "a topic needs at least one partition"));
        }
        let registry = self.registry.read();
        let have: usize = registry.by_name.values().map(|t| t.partitions.len()).sum();
        if registry.by_name.len() + topics > self.topics_max || have + wanted > self.partitions_max {
            let message = format!("limit of {} topics and {} partitions", self.topics_max, self.partitions_max);
            return Err(TopicError::new(ResponseError::PolicyViolation, message));
        }
        Ok(())
    }
}

fn unknown(name: &str) -> TopicError {
    TopicError::new(ResponseError::UnknownTopicOrPartition, format!("topic '{name}' does not exist"))
}

/// The name becomes a directory: nothing but Kafka's own character set.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !legal {
        let message = "a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ -";
        return Err(TopicError::new(ResponseError::InvalidTopicException, message));
    }
    Ok(())
}

fn limits_of(configs: &BTreeMap<String, String>, defaults: &LogLimits) -> Result<LogLimits, TopicError> {
    let mut limits = *defaults;
    for (key, value) in configs {
        let invalid = || TopicError::new(ResponseError::InvalidConfig, format!("invalid value '{value}' for {key}"));
        let number = || value.parse::<i64>().map_err(|_| invalid());
        match key.as_str() {
            RETENTION_MS => limits.retention = u64::try_from(number()?).ok().map(Duration::from_millis),
            RETENTION_BYTES => limits.retention_bytes = u64::try_from(number()?).ok(),
            SEGMENT_BYTES => limits.segment_bytes = u64::try_from(number()?.max(1024)).map_err(|_| invalid())?,
            MAX_MESSAGE_BYTES => limits.max_batch_bytes = usize::try_from(number()?).map_err(|_| invalid())?,
            CLEANUP_POLICY if value == "delete" => {}
            // settings of a replicated cluster that hold on a single node by themselves
            "min.insync.replicas" | "compression.type" if value == "1" || value == "producer" => {}
            _ => {
                let message = format!("the embedded broker doesn't support {key}={value}");
                return Err(TopicError::new(ResponseError::InvalidConfig, message));
            }
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names() {
        assert!(check_name("user-events").is_ok());
        for bad in ["", ".", "..", "a/b", "ä", &"x".repeat(250)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn create_grow_delete_reopen() {
        let dir = std::env::temp_dir().join(format!("broker-topics-{}", Uuid::new_v4()));
        let options = BrokerOptions::new(([127, 0, 0, 1], 0).into(), dir.clone());
        let topics = Topics::open(&options).unwrap();
        let configs = BTreeMap::from([(RETENTION_MS.to_owned(), "1000".to_owned())]);
        let id = topics.create("a", 3, configs.clone(), false).unwrap().unwrap().id();
        assert_eq!(topics.create("a", 3, configs.clone(), false).unwrap_err().code, ResponseError::TopicAlreadyExists);
        assert!(topics.create("b", 1, configs, true).unwrap().is_none());
        assert!(topics.get("b").is_none());
        let nonsense = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        assert_eq!(topics.create("c", 1, nonsense, false).unwrap_err().code, ResponseError::InvalidConfig);
        topics.grow("a", 5, false).unwrap();
        drop(topics);
        let topics = Topics::open(&options).unwrap();
        let topic = topics.get_by_id(id).unwrap();
        assert_eq!((topic.name(), topic.partitions().len()), ("a", 5));
        assert_eq!(topic.limits().retention, Some(Duration::from_secs(1)));
        topics.delete("a").unwrap();
        assert!(topics.get("a").is_none() && topics.get_by_id(id).is_none());
        assert_ne!(topics.create("a", 1, BTreeMap::new(), false).unwrap().unwrap().id(), id);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
