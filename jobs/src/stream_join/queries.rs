//! The join as SQL over four relations: new rows and state of each side.

use crate::source::moment;
use crate::stateful::quoted;

use super::spec::Interval;

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

    /// Columns of the output that come from the left, of a relation `l`.
    fn left_columns(&self) -> String {
        self.left.columns.iter().map(|c| format!("l.{0} AS {0}", quoted(c))).collect::<Vec<_>>().join(", ")
    }

    /// Columns of the output that come from the right, of a relation `r`.
    fn right_columns(&self) -> String {
        let columns = self.right.columns.iter().map(|c| format!("r.{} AS {}", quoted(c), quoted(&format!("{RIGHT_PREFIX}{c}"))));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// Pairs of which at least one row is new.
    pub(crate) fn pairs(&self) -> Vec<String> {
        let join = |left: &str, right: &str| {
            format!("SELECT {}, {} FROM {left} AS l JOIN {right} AS r ON {}", self.left_columns(), self.right_columns(), self.matches())
        };
        vec![
            join(&format!("({})", self.left.new), &format!("({})", self.right.all())),
            join(&format!("(SELECT * FROM {} AS s)", self.left.state), &format!("({})", self.right.new)),
        ]
    }

    /// Rows that are judged now and never had a match, with nothing beside them. `old` is the watermark before the batch: rows of the state that
    /// it had passed were judged then, and stay only for the other side's sake. Nothing for inner joins and before there is a watermark.
    pub(crate) fn unmatched(&self, old: Option<i64>, watermark: Option<i64>) -> Vec<String> {
        let (Some(watermark), interval) = (watermark, &self.interval) else { return Vec::new() };
        let mut queries = Vec::new();
        if interval.kind.keeps_left() {
            let judged = judged(&self.left, old.map(|old| interval.left_judged(old)), interval.left_judged(watermark));
            let (columns, right, matches) = (self.left_columns(), self.right.all(), self.matches());
            queries.push(format!("SELECT {columns} FROM ({judged}) AS l LEFT ANTI JOIN ({right}) AS r ON {matches}"));
        }
        if interval.kind.keeps_right() {
            let judged = judged(&self.right, old.map(|old| interval.right_judged(old)), interval.right_judged(watermark));
            let (columns, left, matches) = (self.right_columns(), self.left.all(), self.matches());
            queries.push(format!("SELECT {columns} FROM ({judged}) AS r LEFT ANTI JOIN ({left}) AS l ON {matches}"));
        }
        queries
    }

    /// New left rows that stay as state.
    pub(crate) fn left_kept(&self, watermark: Option<i64>) -> String {
        kept(&self.left, watermark.map(|w| self.interval.left_gone(w)))
    }

    /// New right rows that stay as state.
    pub(crate) fn right_kept(&self, watermark: Option<i64>) -> String {
        kept(&self.right, watermark.map(|w| self.interval.right_gone(w)))
    }
}

/// Rows of one side that are judged by a batch: of the state those after `before`, of the new ones all, up to `now`.
fn judged(side: &Side, before: Option<i64>, now: i64) -> String {
    let (columns, time) = (side.list(), quoted(&side.time));
    let unjudged = before.map_or_else(String::new, |before| format!(" WHERE s.{time} > {}", moment(before)));
    format!(
        "SELECT {columns} FROM (SELECT {columns} FROM {} AS s{unjudged} UNION ALL SELECT {columns} FROM ({}) AS n) AS a WHERE a.{time} <= {}",
        side.state,
        side.new,
        moment(now)
    )
}

fn kept(side: &Side, gone: Option<i64>) -> String {
    let condition = gone.map_or_else(String::new, |gone| format!(" WHERE {} > {}", quoted(&side.time), moment(gone)));
    format!("SELECT {} FROM ({}) AS n{condition}", side.list(), side.new)
}
