use serde::{Deserialize, Serialize};

/// A definition that makes no windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A length of zero.
    #[error("the {0} of a window must be longer than zero")]
    Empty(&'static str),
    /// Rows between two windows would be lost.
    #[error("a slide longer than the size leaves out rows; use a slide of at most the size")]
    SlideBeyondSize,
    /// Each row would be in too many windows.
    #[error("each row would be in {0} windows; at most {MAX_WINDOWS_PER_ROW} are allowed")]
    TooMany(i64),
}

const MAX_WINDOWS_PER_ROW: i64 = 1_000;

/// How event time is cut. Lengths in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WindowSpec {
    /// Windows of one length, side by side from the epoch on.
    Tumbling {
        /// Length.
        size: i64,
    },
    /// Windows of one length that begin every `slide`.
    Sliding {
        /// Length.
        size: i64,
        /// From one beginning to the next.
        slide: i64,
    },
    /// As long as events of a key follow each other in less than `gap`.
    Session {
        /// Silence that ends a session.
        gap: i64,
    },
}

impl WindowSpec {
    /// Checks the lengths.
    ///
    /// # Errors
    /// A definition that makes no windows, or far too many.
    pub fn validate(self) -> Result<Self, WindowError> {
        match self {
            Self::Tumbling { size } if size <= 0 => Err(WindowError::Empty("size")),
            Self::Session { gap } if gap <= 0 => Err(WindowError::Empty("gap")),
            Self::Sliding { size, .. } if size <= 0 => Err(WindowError::Empty("size")),
            Self::Sliding { slide, .. } if slide <= 0 => Err(WindowError::Empty("slide")),
            Self::Sliding { size, slide } if slide > size => Err(WindowError::SlideBeyondSize),
            Self::Sliding { .. } if self.windows_per_row() > MAX_WINDOWS_PER_ROW => Err(WindowError::TooMany(self.windows_per_row())),
            valid => Ok(valid),
        }
    }

    /// Name of the kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Tumbling { .. } => "tumbling",
            Self::Sliding { .. } => "sliding",
            Self::Session { .. } => "session",
        }
    }

    /// Windows that a row can be in at most.
    pub fn windows_per_row(self) -> i64 {
        match self {
            Self::Sliding { size, slide } => (size + slide - 1) / slide.max(1),
            _ => 1,
        }
    }

    /// Beginnings of the windows that a moment is in, latest first. A session's begins with its event.
    pub fn starts(self, time: i64) -> Vec<i64> {
        match self {
            Self::Tumbling { size } => vec![time.div_euclid(size) * size],
            Self::Sliding { size, slide } => {
                let latest = time.div_euclid(slide) * slide;
                (0..self.windows_per_row()).map(|k| latest - k * slide).filter(|start| start + size > time).collect()
            }
            Self::Session { .. } => vec![time],
        }
    }

    /// End of a window, which does not belong to it.
    pub fn end(self, start: i64, last_event: i64) -> i64 {
        match self {
            Self::Tumbling { size } | Self::Sliding { size, .. } => start + size,
            Self::Session { gap } => last_event + gap,
        }
    }

    /// How long after an event a window with it can still be open, in event time. A repeat can do harm as long.
    pub fn reach(self) -> i64 {
        match self {
            Self::Tumbling { size } | Self::Sliding { size, .. } => size,
            Self::Session { gap } => gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_the_epoch_have_windows_too() {
        assert_eq!(WindowSpec::Tumbling { size: 10 }.starts(-1), [-10]);
        assert_eq!(WindowSpec::Tumbling { size: 10 }.starts(10), [10]);
    }

    #[test]
    fn a_row_is_in_each_window_that_covers_it() {
        assert_eq!(WindowSpec::Sliding { size: 10, slide: 5 }.starts(12), [10, 5]);
        assert_eq!(WindowSpec::Sliding { size: 10, slide: 4 }.starts(9), [8, 4, 0]);
        assert_eq!(WindowSpec::Sliding { size: 10, slide: 4 }.starts(11), [8, 4]);
    }

    #[test]
    fn senseless_lengths_are_refused() {
        assert_eq!(WindowSpec::Tumbling { size: 0 }.validate(), Err(WindowError::Empty("size")));
        assert_eq!(WindowSpec::Sliding { size: 5, slide: 6 }.validate(), Err(WindowError::SlideBeyondSize));
        assert_eq!(WindowSpec::Sliding { size: 5_000, slide: 1 }.validate(), Err(WindowError::TooMany(5_000)));
        assert!(WindowSpec::Session { gap: 1 }.validate().is_ok());
    }
}
