//! Windows over event time, with state: tumbling, sliding, session. Pure: rows come in as partial aggregates, closed windows come out, and the
//! open ones can be taken out and put back, so that whoever drives this commits state and output together.
//!
//! A window closes when the watermark has passed its end; what comes for it later is dropped and counted, as in Spark. Whoever groups rows
//! before (on executors) changes nothing: a window's lateness does not depend on its rows, and merging partial aggregates is associative.

mod figures;
mod operator;
mod spec;
mod watermark;

#[cfg(test)]
mod model_tests;

pub use figures::Figures;
pub use operator::{OpenWindow, Partial, WindowOperator};
pub use spec::{WindowError, WindowSpec};
pub use watermark::{PartitionTime, PartitionWatermark, TopicWatermark};
