//! The driver's side of a stream: a loop of micro-batches over several topics.
//!
//! One batch's way: `look` asks brokers and tables (`load`) how far they are, `runner` plans and executes, `commit` makes files and
//! offsets one transaction. `query` repeats it by its trigger, waits while brokers are away, and tells a listener.

mod ahead;
mod commit;
mod evolve;
mod facts;
mod listener;
mod load;
mod look;
mod pattern;
mod progress;
mod query;
mod runner;
mod spec;

#[cfg(test)]
mod tests;

pub use listener::{NoListener, ProgressListener, Waiting};
pub use load::{BATCH_ID_KEY, absent_offsets, committed_ranges, table_progress, table_standing};
pub use pattern::{TopicPattern, TopicResolver};
pub use progress::{SinkProgress, SourceProgress, StateOperatorProgress, StreamingQueryProgress};
pub use query::{StreamSummary, StreamingQuery};
pub use spec::{EARLIEST, LATEST, SchemaEvolution, StartPolicy, StreamSpec, TopicSubscription, Trigger};
