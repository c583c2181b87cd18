//! The operator against a model that keeps every row and computes all windows anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Figures, OpenWindow, Partial, WindowOperator, WindowSpec};

type Event = (u8, i64);
type Counts = BTreeMap<(String, i64, i64), u64>;

fn figures(time: i64) -> Figures {
    Figures { events: 1, views: 1, clicks: 0, purchases: 0, revenue: 1.0, first: time, last: time }
}

fn partials(spec: WindowSpec, watermark: Option<i64>, event: Event) -> Vec<Partial> {
    let (key, time) = event;
    let late = matches!(spec, WindowSpec::Session { gap } if watermark.is_some_and(|w| time + gap <= w));
    spec.starts(time).into_iter().map(|start| Partial { key: key.to_string(), start, figures: figures(time), late }).collect()
}

fn counts<'a>(windows: impl IntoIterator<Item = &'a OpenWindow>) -> Counts {
    windows.into_iter().map(|w| ((w.key.clone(), w.start, w.end), w.figures.events)).collect()
}

/// All windows of rows, from nothing.
fn model(spec: WindowSpec, rows: &[(u8, i64, i64)]) -> Counts {
    let mut windows = Counts::new();
    match spec {
        WindowSpec::Session { gap } => {
            let mut by_key: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
            for (key, time, _) in rows {
                by_key.entry(*key).or_default().push(*time);
            }
            for (key, mut times) in by_key {
                times.sort_unstable();
                let mut session: Option<(i64, i64, u64)> = None;
                for time in times {
                    session = match session {
                        Some((first, last, n)) if time < last + gap => Some((first, time, n + 1)),
                        other => {
                            if let Some((first, last, n)) = other {
                                windows.insert((key.to_string(), first, last + gap), n);
                            }
                            Some((time, time, 1))
                        }
                    };
                }
                if let Some((first, last, n)) = session {
                    windows.insert((key.to_string(), first, last + gap), n);
                }
            }
        }
        _ => {
            for (key, time, start) in rows {
                *windows.entry((key.to_string(), *start, spec.end(*start, *time))).or_default() += 1;
            }
        }
    }
    windows
}

fn specs() -> impl Strategy<Value = WindowSpec> {
    prop_oneof![
        (1..40_i64).prop_map(|size| WindowSpec::Tumbling { size }),
        (1..40_i64, 1..40_i64).prop_map(|(a, b)| WindowSpec::Sliding { size: a.max(b), slide: a.min(b) }),
        (1..30_i64).prop_map(|gap| WindowSpec::Session { gap }),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Vec<Event>>> {
    prop::collection::vec(prop::collection::vec((0..3_u8, -50..150_i64), 0..12), 1..8)
}

proptest! {
    /// Without lateness, however the rows are cut into batches, the windows are those of all rows at once.
    #[test]
    fn batches_do_not_matter_without_lateness(spec in specs(), batches in batches()) {
        let mut operator = WindowOperator::restore(spec, None, []);
        let mut rows = Vec::new();
        for event in batches.iter().flatten() {
            for partial in partials(spec, None, *event) {
                rows.push((event.0, event.1, partial.start));
                operator.absorb(partial);
            }
        }
        let open: Vec<_> = operator.open().collect();
        prop_assert_eq!(operator.len(), open.len());
        prop_assert_eq!(counts(&open), model(spec, &rows));
        // Past everything, all of them come out.
        let closed = operator.advance(Some(i64::MAX));
        prop_assert_eq!(counts(&closed), counts(&open));
        prop_assert!(operator.is_empty());
    }

    /// With a moving watermark: what comes out and what is open is what the model makes of the rows that were in time; what was late is
    /// counted; a restart after any batch changes nothing; nothing comes out twice.
    #[test]
    fn rows_in_time_are_counted_once(spec in specs(), batches in batches(), delay in 0..40_i64) {
        let mut operator = WindowOperator::restore(spec, None, []);
        let mut restarted = operator.clone();
        let (mut closed, mut taken, mut late) = (Vec::new(), Vec::new(), 0_u64);
        let mut newest = i64::MIN;
        for batch in &batches {
            let watermark = operator.watermark();
            for event in batch {
                for partial in partials(spec, watermark, *event) {
                    if operator.is_late(spec.end(partial.start, event.1)) {
                        late += 1;
                    } else {
                        taken.push((event.0, event.1, partial.start));
                    }
                    operator.absorb(partial.clone());
                    restarted.absorb(partial);
                }
                newest = newest.max(event.1);
            }
            let to = (newest > i64::MIN).then(|| newest - delay);
            let out = operator.advance(to);
            prop_assert_eq!(&restarted.advance(to), &out);
            closed.extend(out);
            prop_assert!(operator.open().all(|w| !operator.is_late(w.end)));
            restarted = WindowOperator::restore(spec, restarted.watermark(), restarted.open());
            prop_assert_eq!(restarted.open().collect::<Vec<_>>(), operator.open().collect::<Vec<_>>());
        }
        prop_assert_eq!(operator.dropped(), late);
        let open: Vec<_> = operator.open().collect();
        let total: u64 = closed.iter().chain(&open).map(|w| w.figures.events).sum();
        prop_assert_eq!(total, taken.len() as u64);
        let all: Vec<_> = closed.iter().chain(&open).cloned().collect();
        if let WindowSpec::Session { gap } = spec {
            // A session that had closed does not come back: rows that would have joined it begin another. So sessions are checked for
            // what makes them one.
            for w in &all {
                prop_assert_eq!((w.start, w.end), (w.figures.first, w.figures.last + gap));
            }
        } else {
            prop_assert_eq!(all.len(), counts(&all).len(), "a window came out twice");
            prop_assert_eq!(counts(&all), model(spec, &taken));
        }
    }

    /// Rows that were grouped before are the same as rows one by one.
    #[test]
    fn grouping_before_changes_nothing(gap in 1..30_i64, times in prop::collection::vec(-50..150_i64, 1..30)) {
        let spec = WindowSpec::Session { gap };
        let mut one_by_one = WindowOperator::restore(spec, None, []);
        for time in &times {
            one_by_one.absorb(Partial { key: "k".into(), start: *time, figures: figures(*time), late: false });
        }
        let mut sorted = times.clone();
        sorted.sort_unstable();
        let mut groups: Vec<Figures> = Vec::new();
        for time in sorted {
            match groups.last_mut() {
                Some(group) if time < group.last + gap => group.merge(&figures(time)),
                _ => groups.push(figures(time)),
            }
        }
        let mut grouped = WindowOperator::restore(spec, None, []);
        for group in groups.into_iter().rev() {
            grouped.absorb(Partial { key: "k".into(), start: group.first, figures: group, late: false });
        }
        prop_assert_eq!(one_by_one.open().collect::<Vec<_>>(), grouped.open().collect::<Vec<_>>());
    }
}
