//! Kafka to Iceberg in micro-batches whose progress is the commit itself (architecture, section 3).
//!
//! A batch's way: `batch` chooses offsets (pure), `exec` reads them on executors through `kafka`, `decode` turns bytes
//! into columns of the schemas that `topics` declares (with `registry` for Avro), and `stream` commits the files with
//! their offsets. A batch commits only if its start is where the table stands, so there is no checkpoint to lose.
//!
//! Only `kafka` names rdkafka.

pub mod batch;
pub mod codec;
pub mod decode;
pub mod exec;
pub mod kafka;
pub mod registry;
pub mod stream;
pub mod topics;
pub mod window;

mod err;
#[cfg(test)]
mod test_support;
