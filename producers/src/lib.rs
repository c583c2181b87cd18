//! The five generators of the platform's topics, and the producer that sends them to Kafka.
//!
//! * [`generate`] is pure: topic and options in, records out; the same seed and base time give the same bytes.
//! * [`produce_to`] sends them with an idempotent producer and accounts for every record.
//!
//! Fields, keys and behaviour are those of the platform's data model. Per topic one module under `topics`; `encode` writes
//! JSON and Avro; `sink` is the only place that knows the Kafka client.
//!
//! # What each record is
//! A record is of exactly one [`Kind`]; [`Counts`] adds them up. Malformed records fail any reader of the schema: cut off,
//! wrong type, missing business key, bad timestamp, garbage, in turn. Invalid ones are well-formed and break a rule:
//!
//! | topic | broken rule, in turn |
//! |---|---|
//! | `user-events` | `value` of a purchase is negative |
//! | `products` | `price` is 0; `price` is negative; `rating_score` is 7 |
//! | `api-logs` | `response_time_ms` is 0; `response_time_ms` is negative |
//! | `user-posts` | `title` is empty |
//! | `weather-data` | `temperature` is 99.9 (range -10 to 40); `wind_speed` is negative |
//!
//! Duplicates repeat a valid record of the last 512 byte for byte. Apart from them, the business key (first field) together
//! with the event time ([`Topic::event_time_field`]) is unique in a run.
//!
//! # Time
//! The Kafka timestamp is the ingestion time; the event time lies before it by the record's delay. No time is later than
//! the base time, unless a rate is set, in which case records start at the base time.

mod config;
mod encode;
mod error;
mod generate;
mod options;
mod produce;
mod registry;
mod report;
mod rng;
mod row;
mod sink;
mod time;
mod topics;

pub use config::produce;
pub use encode::schema;
pub use error::{ProducerError, Result};
pub use generate::{Generator, Record, RecordRef, default_base_time_us, generate};
pub use options::{Format, ProduceOptions, Shares};
pub use produce::{Target, produce_to};
pub use registry::{Registry, RegistryTarget};
pub use report::{Counts, Kind, ProduceReport, Progress, TopicProgress, TopicReport};
pub use row::{Field, FieldType};
pub use sink::KafkaTarget;
pub use topics::Topic;
