//! Streams as Prometheus has them: what each running query told last, under the names of Spark's `StreamingQueryProgress`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::HttpState;
use crate::runs::model::RunState;
use crate::runs::store::Filter;

/// Runs that are looked at, at most.
const RUNS_MAX: u32 = 1_000;

/// One figure: name, help, and where the progress has it.
type Figure = (&'static str, &'static str, fn(&Value) -> Option<f64>);

const FIGURES: [Figure; 12] = [
    ("num_input_rows", "Records of the last batch.", |p| number(&p["numInputRows"])),
    ("input_rows_per_second", "Records per second since the batch before began.", |p| number(&p["inputRowsPerSecond"])),
    ("processed_rows_per_second", "Records per second of the last batch's own time.", |p| number(&p["processedRowsPerSecond"])),
    ("batch_id", "The last batch.", |p| number(&p["batchId"])),
    ("batch_duration_seconds", "How long the last batch took.", |p| Some(number(&p["batchDuration"])? / 1_000.0)),
    ("last_commit_timestamp_seconds", "When the last batch was committed, Unix time.", |p| Some(moment(&p["timestamp"])? + number(&p["batchDuration"])? / 1_000.0)),
    ("watermark_timestamp_seconds", "The watermark, Unix time.", |p| moment(&p["eventTime"]["watermark"])),
    ("num_output_rows", "Rows that the last batch wrote.", |p| number(&p["sink"]["numOutputRows"])),
    ("num_dead_letter_rows", "Records of the last batch that became dead letters.", |p| number(&p["sink"]["numDeadLetterRows"])),
    ("state_num_rows_total", "Rows or windows of state.", |p| state(p, "numRowsTotal")),
    ("state_num_rows_removed", "Rows of state that the last batch's watermark removed.", |p| state(p, "numRowsRemoved")),
    ("state_num_rows_dropped_by_watermark", "Records of the last batch that came too late.", |p| state(p, "numRowsDroppedByWatermark")),
];

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

fn moment(value: &Value) -> Option<f64> {
    let at = chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    #[allow(clippy::cast_precision_loss)]
    Some(at.timestamp_millis() as f64 / 1_000.0)
}

/// The sum over all operators with state; nothing for a query without.
fn state(progress: &Value, name: &str) -> Option<f64> {
    let operators = progress["stateOperators"].as_array().filter(|operators| !operators.is_empty())?;
    Some(operators.iter().filter_map(|operator| operator[name].as_f64()).sum())
}

/// Figures of all running streams.
pub(super) async fn metrics(text: &mut String, state: &HttpState) {
    let filter = Filter { states: vec![RunState::Running], limit: RUNS_MAX, ..Filter::default() };
    let Ok((runs, _)) = state.runs.list(&filter).await else { return };
    let told: Vec<(String, Value)> = runs
        .into_iter()
        .filter_map(|run| {
            let progress: Value = serde_json::from_str(&run.progress?.metrics_json).ok()?;
            progress.get("numInputRows").is_some().then_some((run.run_id, progress))
        })
        .collect();
    write(text, &told);
}

fn write(text: &mut String, told: &[(String, Value)]) {
    let of_query = |run: &str, progress: &Value| format!("query=\"{}\",run=\"{}\"", escape(progress["name"].as_str().unwrap_or_default()), escape(run));
    let mut heads: BTreeMap<&str, (&str, Vec<(String, f64)>)> = BTreeMap::new();
    for (name, help, pick) in FIGURES {
        for (run, progress) in told {
            if let Some(value) = pick(progress) {
                heads.entry(name).or_insert_with(|| (help, Vec::new())).1.push((of_query(run, progress), value));
            }
        }
    }
    for (run, progress) in told {
        for (phase, ms) in progress["durationMs"].as_object().into_iter().flatten() {
            let labels = format!("{},phase=\"{}\"", of_query(run, progress), escape(phase));
            let entry = heads.entry("duration_seconds").or_insert_with(|| ("How long the last batch's phases took.", Vec::new()));
            entry.1.extend(ms.as_f64().map(|ms| (labels, ms / 1_000.0)));
        }
        for source in progress["sources"].as_array().into_iter().flatten() {
            let topic = escape(source["topic"].as_str().unwrap_or_default());
            for (partition, behind) in source["lag"].as_object().into_iter().flatten() {
                let labels = format!("{},topic=\"{topic}\",partition=\"{}\"", of_query(run, progress), escape(partition));
                let entry = heads.entry("offsets_behind_latest").or_insert_with(|| ("Positions of a partition left in the log after the last batch.", Vec::new()));
                entry.1.extend(behind.as_f64().map(|behind| (labels, behind)));
            }
        }
    }
    for (name, (help, values)) in &heads {
        // Writing into a String does not fail.
        let _ = writeln!(text, "# HELP chainalytics_streaming_{name} {help}\n# TYPE chainalytics_streaming_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "chainalytics_streaming_{name}{{{labels}}} {value}");
        }
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_streams_progress_becomes_figures() {
        let progress = json!({
            "name": "kafka_to_bronze", "batchId": 7, "numInputRows": 30, "batchDuration": 1500, "timestamp": "2026-01-01T00:00:00Z",
            "durationMs": {"addBatch": 1200}, "eventTime": {"watermark": "2026-01-01T00:00:10Z"},
            "sources": [{"topic": "t", "lag": {"0": 4, "1": 0}}], "sink": {"numOutputRows": 29},
        });
        let windows = json!({"name": "w\"", "numInputRows": 1, "stateOperators": [{"numRowsTotal": 5}, {"numRowsTotal": 6}]});
        let mut text = String::new();
        write(&mut text, &[("r1".to_owned(), progress), ("r2".to_owned(), windows)]);
        for line in [
            "chainalytics_streaming_num_input_rows{query=\"kafka_to_bronze\",run=\"r1\"} 30",
            "chainalytics_streaming_last_commit_timestamp_seconds{query=\"kafka_to_bronze\",run=\"r1\"} 1767225601.5",
            "chainalytics_streaming_watermark_timestamp_seconds{query=\"kafka_to_bronze\",run=\"r1\"} 1767225610",
            "chainalytics_streaming_duration_seconds{query=\"kafka_to_bronze\",run=\"r1\",phase=\"addBatch\"} 1.2",
            "chainalytics_streaming_offsets_behind_latest{query=\"kafka_to_bronze\",run=\"r1\",topic=\"t\",partition=\"0\"} 4",
            "chainalytics_streaming_state_num_rows_total{query=\"w\\\"\",run=\"r2\"} 11",
            "# TYPE chainalytics_streaming_offsets_behind_latest gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("state_num_rows_total{query=\"kafka_to_bronze\""), "{text}");
    }
}
