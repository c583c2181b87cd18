//! The join as SQL over four relations: new rows and state of each side.

use crate::source::moment;

use super::spec::{Interval, Kind};

/// Prefix of the right side's columns in the output.
pub(super) const RIGHT_PREFIX: &str = "right_";

/// One side of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// Query of the new rows that are in time.
    pub new: String,
    /// Table or query of the state.
    pub state: String,
    pub columns: Vec<String>,
    pub keys: Vec<String>,
    pub time: String,
}

/// One batch.
#[derive(Debug, Clone)]
pub(crate) struct Queries {
    pub left: Side,
    pub right: Side,
    pub interval: Interval,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Side {
    pub(super) fn list(&self) -> String {
        self.columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ")
    }

    /// State and news.
    fn all(&self) -> String {
        format!("SELECT {0} FROM {1} AS s UNION ALL SELECT {0} FROM ({2}) AS n", self.list(), self.state, self.new)
    }
}

impl Queries {
    fn matches(&self) -> String {
        let keys = self.left.keys.iter().zip(&self.right.keys).map(|(l, r)| format!("l.{} = r.{}", quoted(l), quoted(r)));
        let (l, r) = (quoted(&self.left.time), quoted(&self.right.time));
        let shifted = |micros: i64| {
            let (sign, length) = if micros < 0 { ('-', micros.unsigned_abs()) } else { ('+', micros.unsigned_abs()) };
            format!("l.{l} {sign} INTERVAL '{length} microseconds'")
        };
        let within = [format!("r.{r} >= {}", shifted(self.interval.lower)), format!("r.{r} <= {}", shifted(self.interval.upper))];
        keys.chain(within).collect::<Vec<_>>().join(" AND ")
    }

    fn pair(&self) -> String {
        let left = self.left.columns.iter().map(|c| format!("l.{0} AS {0}", quoted(c)));
        let right = self.right.columns.iter().map(|c| format!("r.{} AS {}", quoted(c), quoted(&format!("{RIGHT_PREFIX}{c}"))));
        left.chain(right).collect::<Vec<_>>().join(", ")
    }

    /// Pairs of which at least one row is new.
    pub(crate) fn pairs(&self) -> Vec<String> {
        let join = |left: &str, right: &str| format!("SELECT {} FROM {left} AS l JOIN {right} AS r ON {}", self.pair(), self.matches());
        vec![
            join(&format!("({})", self.left.new), &format!("({})", self.right.all())),
            join(&format!("(SELECT * FROM {} AS s)", self.left.state), &format!("({})", self.right.new)),
        ]
    }

    /// Left rows that go now and never had a match, with nothing beside them. `None` for inner joins and before there is a watermark.
    pub(crate) fn unmatched(&self, watermark: Option<i64>) -> Option<String> {
        let watermark = watermark.filter(|_| self.interval.kind == Kind::LeftOuter)?;
        let done = moment(self.interval.left_done(watermark));
        let left = self.left.columns.iter().map(|c| format!("l.{0} AS {0}", quoted(c))).collect::<Vec<_>>().join(", ");
        let leaving = format!("SELECT * FROM ({}) AS a WHERE {} <= {done}", self.left.all(), quoted(&self.left.time));
        Some(format!("SELECT {left} FROM ({leaving}) AS l LEFT ANTI JOIN ({}) AS r ON {}", self.right.all(), self.matches()))
    }

    /// New left rows that stay as state.
    pub(crate) fn left_kept(&self, watermark: Option<i64>) -> String {
        kept(&self.left, watermark.map(|w| self.interval.left_done(w)))
    }

    /// New right rows that stay as state.
    pub(crate) fn right_kept(&self, watermark: Option<i64>) -> String {
        kept(&self.right, watermark.map(|w| self.interval.right_done(w)))
    }
}

fn kept(side: &Side, done: Option<i64>) -> String {
    let condition = done.map_or_else(String::new, |done| format!(" WHERE {} > {}", quoted(&side.time), moment(done)));
    format!("SELECT {} FROM ({}) AS n{condition}", side.list(), side.new)
}
