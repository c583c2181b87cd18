//! The driver's side of a stream: a loop of micro-batches over several topics.
//!
//! One batch's way: `load` asks the tables how far they are, `runner` plans and executes, `commit` makes files and
//! offsets one transaction. `query` repeats it by its trigger, waits while brokers are away, and tells a listener.

mod commit;
mod listener;
mod load;
mod progress;
mod query;
mod runner;
mod spec;

#[cfg(test)]
mod tests;

pub use listener::{NoListener, ProgressListener, Waiting};
pub use load::{BATCH_ID_KEY, table_progress};
pub use progress::{SinkProgress, SourceProgress, StreamingQueryProgress};
pub use query::{StreamSummary, StreamingQuery};
pub use spec::{StartPolicy, StreamSpec, TopicSubscription, Trigger};
