//! Every run and query known, newest first, as small entries. A catalog never changes: a scan makes a new one.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use chainalytics_api_types::{QueryState, QuerySummary, RunSummary};

/// Longest text in an entry; details have all of it.
const TEXT_MAX: usize = 300;

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub runs: Vec<Arc<RunSummary>>,
    pub queries: Vec<Arc<QuerySummary>>,
    run_paths: HashMap<String, PathBuf>,
    query_paths: HashMap<String, PathBuf>,
    query_at: HashMap<String, usize>,
    /// Logs that could not be read, with the reason.
    pub unreadable: BTreeMap<PathBuf, String>,
}

/// What a scan knows of a run log.
#[derive(Debug, Clone)]
pub(crate) struct RunEntry {
    pub summary: Arc<RunSummary>,
    pub path: PathBuf,
    /// As the run's own log tells them, without what Ballista's logs add.
    pub queries: Vec<Arc<QuerySummary>>,
}

/// What a scan knows of a query log.
#[derive(Debug, Clone)]
pub(crate) struct QueryEntry {
    pub summary: Arc<QuerySummary>,
    pub path: PathBuf,
}

impl Catalog {
    /// Joins run logs and query logs. At most `entries_max` runs and queries each; the newest stay.
    pub fn build(
        runs: impl Iterator<Item = RunEntry>,
        queries: impl Iterator<Item = QueryEntry>,
        unreadable: BTreeMap<PathBuf, String>,
        entries_max: usize,
    ) -> Self {
        let mut catalog = Self { unreadable, ..Self::default() };
        let mut of_runs: HashMap<String, Arc<QuerySummary>> = HashMap::new();
        for entry in runs {
            catalog.run_paths.insert(entry.summary.run_id.clone(), entry.path);
            of_runs.extend(entry.queries.into_iter().map(|query| (query.job_id.clone(), query)));
            catalog.runs.push(entry.summary);
        }
        for entry in queries {
            let known = of_runs.remove(&entry.summary.job_id);
            catalog.query_paths.insert(entry.summary.job_id.clone(), entry.path);
            catalog.queries.push(match known {
                Some(of_run) => Arc::new(joined(&of_run, Some(&entry.summary))),
                None => entry.summary,
            });
        }
        catalog.queries.extend(of_runs.into_values().map(|of_run| Arc::new(joined(&of_run, None))));

        catalog.runs.sort_by(|a, b| b.submitted_at_ms.cmp(&a.submitted_at_ms).then_with(|| a.run_id.cmp(&b.run_id)));
        catalog.queries.sort_by(|a, b| begun(b).cmp(&begun(a)).then_with(|| a.job_id.cmp(&b.job_id)));
        for dropped in catalog.runs.drain(entries_max.min(catalog.runs.len())..) {
            catalog.run_paths.remove(&dropped.run_id);
        }
        for dropped in catalog.queries.drain(entries_max.min(catalog.queries.len())..) {
            catalog.query_paths.remove(&dropped.job_id);
        }
        catalog.query_at = catalog.queries.iter().enumerate().map(|(at, query)| (query.job_id.clone(), at)).collect();
        catalog
    }

    pub fn run_path(&self, run_id: &str) -> Option<&PathBuf> {
        self.run_paths.get(run_id)
    }

    /// Ballista's log of a query; absent for a query whose log was never finished.
    pub fn query_path(&self, job_id: &str) -> Option<&PathBuf> {
        self.query_paths.get(job_id)
    }

    pub fn query(&self, job_id: &str) -> Option<&Arc<QuerySummary>> {
        self.queries.get(*self.query_at.get(job_id)?)
    }

    pub fn runs_by_state(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for run in &self.runs {
            *counts.entry(run.state.as_str().to_owned()).or_insert(0) += 1;
        }
        counts
    }
}

fn begun(query: &QuerySummary) -> Option<i64> {
    query.submitted_at_ms.or(query.started_at_ms)
}

/// The run's log knows run, label, attempt and verdict; Ballista's knows state, times and stages.
pub(crate) fn joined(of_run: &QuerySummary, of_log: Option<&QuerySummary>) -> QuerySummary {
    let Some(of_log) = of_log else {
        let mut query = of_run.clone();
        if !query.state.has_ended() {
            // Neither log tells how it ended.
            query.state = QueryState::Unknown;
        }
        return query;
    };
    QuerySummary {
        run_id: of_run.run_id.clone(),
        label: if of_run.label.is_empty() { of_log.label.clone() } else { of_run.label.clone() },
        attempt: of_run.attempt,
        validity: if of_run.state.has_ended() { of_run.validity } else { of_log.validity },
        validity_reason: of_run.validity_reason.clone(),
        submitted_at_ms: of_run.submitted_at_ms,
        error: of_log.error.clone().or_else(|| of_run.error.clone()),
        ..of_log.clone()
    }
}

/// Cuts what an entry need not hold.
pub(crate) fn slim_run(mut run: RunSummary) -> RunSummary {
    if let Some(error) = &mut run.error {
        shorten(&mut error.message);
        shorten(&mut error.remedy);
    }
    if let Some(progress) = &mut run.progress {
        progress.metrics = serde_json::Value::Null;
        shorten(&mut progress.phase);
    }
    shorten(&mut run.name);
    run
}

pub(crate) fn slim_query(mut query: QuerySummary) -> QuerySummary {
    shorten(&mut query.label);
    for text in [&mut query.error, &mut query.validity_reason].into_iter().flatten() {
        shorten(text);
    }
    query
}

fn shorten(text: &mut String) {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use chainalytics_api_types::Validity;

    use super::*;

    fn run(n: i64) -> RunEntry {
        let summary = RunSummary { run_id: format!("r{n}"), submitted_at_ms: n, ..RunSummary::default() };
        RunEntry { summary: Arc::new(summary), path: format!("/r{n}").into(), queries: Vec::new() }
    }

    #[test]
    fn the_newest_stay_when_there_are_too_many() {
        let catalog = Catalog::build((0..10).map(run), std::iter::empty(), BTreeMap::new(), 3);
        assert_eq!(catalog.runs.iter().map(|run| run.run_id.as_str()).collect::<Vec<_>>(), ["r9", "r8", "r7"]);
        assert!(catalog.run_path("r9").is_some() && catalog.run_path("r1").is_none());
    }

    #[test]
    fn a_query_is_joined_from_both_logs() {
        let of_run = QuerySummary {
            job_id: "j".into(),
            run_id: Some("r1".into()),
            label: "join".into(),
            state: QueryState::Succeeded,
            validity: Validity::Valid,
            attempt: 2,
            ..QuerySummary::default()
        };
        let of_log = QuerySummary { job_id: "j".into(), state: QueryState::Succeeded, stages_total: 4, ..QuerySummary::default() };
        let mut entry = run(1);
        entry.queries = vec![Arc::new(of_run)];
        let log = QueryEntry { summary: Arc::new(of_log), path: "/j".into() };
        let catalog = Catalog::build([entry].into_iter(), [log].into_iter(), BTreeMap::new(), 10);
        assert_eq!(catalog.queries.len(), 1);
        let query = catalog.query("j").map(Arc::as_ref).cloned().unwrap_or_default();
        assert_eq!((query.run_id.as_deref(), query.attempt, query.stages_total), (Some("r1"), 2, 4));
        assert_eq!(query.validity, Validity::Valid);
    }

    #[test]
    fn a_query_without_any_end_is_of_unknown_state() {
        let mut entry = run(1);
        entry.queries = vec![Arc::new(QuerySummary { job_id: "j".into(), state: QueryState::Running, ..QuerySummary::default() })];
        let catalog = Catalog::build([entry].into_iter(), std::iter::empty(), BTreeMap::new(), 10);
        assert_eq!(catalog.query("j").map(|query| query.state), Some(QueryState::Unknown));
        assert!(catalog.query_path("j").is_none());
    }
}
