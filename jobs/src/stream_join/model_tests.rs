//! The join's queries, batch after batch with the state that each left, against all accepted rows joined at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::queries::{Queries, Side};
use super::spec::{Interval, Kind};
use crate::source::moment;

/// Key, time, identity.
type Row = (i64, i64, i64);
/// Identities of a left and a right row that came out together.
type Pair = (Option<i64>, Option<i64>);

fn relation(rows: &[Row]) -> String {
    let list: Vec<String> = rows.iter().map(|(k, t, id)| format!("(CAST({k} AS BIGINT), {}, CAST({id} AS BIGINT))", moment(*t))).collect();
    match list.is_empty() {
        true => format!("(SELECT * FROM (VALUES (CAST(0 AS BIGINT), {}, CAST(0 AS BIGINT))) AS v (k, t, id) WHERE FALSE)", moment(0)),
        false => format!("(SELECT * FROM (VALUES {}) AS v (k, t, id))", list.join(", ")),
    }
}

fn side(new: &[Row], state: &[Row]) -> Side {
    Side {
        new: format!("SELECT * FROM {} AS n", relation(new)),
        state: relation(state),
        columns: vec!["k".into(), "t".into(), "id".into()],
        keys: vec!["k".into()],
        time: "t".into(),
    }
}

fn cell(batch: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let column = batch.column_by_name(column)?.as_primitive::<Int64Type>();
    column.is_valid(row).then(|| column.value(row))
}

struct Db(tokio::runtime::Runtime, SessionContext);

impl Db {
    fn rows<T>(&self, query: &str, pick: impl Fn(&RecordBatch, usize) -> T) -> Vec<T> {
        let batches = self.0.block_on(async { self.1.sql(query).await.unwrap().collect().await.unwrap() });
        batches.iter().flat_map(|b| (0..b.num_rows()).map(|r| pick(b, r)).collect::<Vec<_>>()).collect()
    }

    fn state(&self, query: &str) -> Vec<Row> {
        self.rows(&format!("SELECT k, arrow_cast(t, 'Int64') AS t, id FROM ({query}) AS q"), |b, r| {
            (cell(b, "k", r).unwrap(), cell(b, "t", r).unwrap(), cell(b, "id", r).unwrap())
        })
    }
}

type Batch = (Vec<(i64, i64)>, Vec<(i64, i64)>);

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let rows = || prop::collection::vec((0..3_i64, 0..120_i64), 0..7);
    prop::collection::vec((rows(), rows()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pairs_come_out_once_and_state_goes(
        batches in batches(), (a, b) in (-30..40_i64, -30..40_i64), delay in 0..30_i64,
        kind in prop::sample::select(vec![Kind::Inner, Kind::LeftOuter, Kind::RightOuter, Kind::FullOuter])
    ) {
        let interval = Interval { lower: a.min(b), upper: a.max(b), kind };
        let db = Db(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), SessionContext::new());
        let (mut left_state, mut right_state): (Vec<Row>, Vec<Row>) = Default::default();
        let (mut all_left, mut all_right, mut out): (Vec<Row>, Vec<Row>, Vec<Pair>) = Default::default();
        let (mut watermark, mut newest, mut id) = (None::<i64>, (i64::MIN, i64::MIN), 0);
        // The last batch carries all time past, so that everything is judged.
        let end = (vec![(7, 1_000)], vec![(8, 1_000)]);
        for (left, right) in batches.iter().chain([&end]) {
            let old = watermark;
            let mut accept = |rows: &[(i64, i64)], all: &mut Vec<Row>, newest: &mut i64| -> Vec<Row> {
                let mut accepted = Vec::new();
                for (key, time) in rows {
                    id += 1;
                    *newest = (*newest).max(*time);
                    if watermark.is_none_or(|w| *time > w) {
                        accepted.push((*key, *time, id));
                    }
                }
                all.extend(&accepted);
                accepted
            };
            let new_left = accept(left, &mut all_left, &mut newest.0);
            let new_right = accept(right, &mut all_right, &mut newest.1);
            if newest.0 > i64::MIN && newest.1 > i64::MIN {
                watermark = watermark.max(Some(newest.0.min(newest.1) - delay));
            }
            let queries = Queries { left: side(&new_left, &left_state), right: side(&new_right, &right_state), interval };
            for query in queries.pairs().into_iter().chain(queries.unmatched(old, watermark)) {
                out.extend(db.rows(&query, |b, r| (cell(b, "id", r), cell(b, "right_id", r))));
            }
            let (left_kept, right_kept) = (db.state(&queries.left_kept(watermark)), db.state(&queries.right_kept(watermark)));
            if let Some(watermark) = watermark {
                left_state.retain(|(_, t, _)| *t > interval.left_gone(watermark));
                right_state.retain(|(_, t, _)| *t > interval.right_gone(watermark));
            }
            left_state.extend(left_kept);
            right_state.extend(right_kept);
        }
        let mut expected: Vec<Pair> = Vec::new();
        let matches = |(key, time, _): &Row, (k, t, _): &Row| key == k && (time + interval.lower..=time + interval.upper).contains(t);
        for left in &all_left {
            expected.extend(all_right.iter().filter(|right| matches(left, right)).map(|right| (Some(left.2), Some(right.2))));
            let judged = watermark.is_some_and(|w| left.1 <= interval.left_judged(w));
            if kind.keeps_left() && judged && !all_right.iter().any(|right| matches(left, right)) {
                expected.push((Some(left.2), None));
            }
        }
        for right in all_right.iter().filter(|_| kind.keeps_right()) {
            let judged = watermark.is_some_and(|w| right.1 <= interval.right_judged(w));
            if judged && !all_left.iter().any(|left| matches(left, right)) {
                expected.push((None, Some(right.2)));
            }
        }
        out.sort_unstable();
        expected.sort_unstable();
        let times: BTreeMap<i64, i64> = all_left.iter().chain(&all_right).map(|(_, t, id)| (*id, *t)).collect();
        prop_assert_eq!(&out, &expected, "{:?}", times);
        // What is left could still match: nothing of before the last batch.
        let bound = 1_000 - delay - 2 * 40;
        prop_assert!(left_state.iter().chain(&right_state).all(|(_, t, _)| *t > bound), "{:?} {:?}", left_state, right_state);
    }
}
