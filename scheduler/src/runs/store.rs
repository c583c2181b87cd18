//! Runs and their queries in an embedded SQLite file (`<data-dir>/scheduler/runs.db`, WAL), so that a restarted scheduler finds them.

use super::model::{DeployMode, Progress, Run, RunError, RunQuery, RunState};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{QueryBuilder, Row, Sqlite};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Version of the tables, kept in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    job TEXT NOT NULL,
    args TEXT NOT NULL,
    conf TEXT NOT NULL,
    deploy_mode TEXT NOT NULL,
    supervise INTEGER NOT NULL,
    user TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    submitted_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    error TEXT,
    progress TEXT,
    executor_id TEXT,
    placed_at_ms INTEGER,
    kill_requested_at_ms INTEGER,
    report TEXT
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (submitted_at_ms DESC, run_id);
CREATE INDEX IF NOT EXISTS runs_by_state ON runs (state);
CREATE TABLE IF NOT EXISTS run_queries (
    job_id TEXT PRIMARY KEY NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    label TEXT NOT NULL,
    statement TEXT NOT NULL,
    registered_at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS queries_by_run ON run_queries (run_id, registered_at_ms);
";

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("run store: {0}")]
    Sql(#[from] sqlx::Error),
    /// The directory cannot be made.
    #[error("run store at {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A row that this version cannot read.
    #[error("run store: row of run {run_id} is not readable: {what}")]
    BadRow {
        /// Which.
        run_id: String,
        /// What about it.
        what: String,
    },
    /// Written by a newer version.
    #[error("run store: its version {found} is newer than {SCHEMA_VERSION}, which this scheduler can read")]
    TooNew {
        /// The file's version.
        found: i64,
    },
}

type Result<T> = std::result::Result<T, StoreError>;

/// Which runs to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty = all.
    pub states: Vec<RunState>,
    /// Exact name of the job.
    pub job: Option<String>,
    /// Part of id, name, job or user.
    pub text: Option<String>,
    pub limit: u32,
    pub offset: u32,
}

/// Handle of the store; cheap to clone.
#[derive(Clone)]
pub struct RunStore {
    pub(super) pool: SqlitePool,
}

impl RunStore {
    /// Opens the file, makes it when it is missing.
    pub async fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await.map_err(|source| StoreError::Io { path: dir.display().to_string(), source })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(10)).connect_with(options).await?;
        let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(&pool).await?.try_get(0)?;
        if found > SCHEMA_VERSION {
            return Err(StoreError::TooNew { found });
        }
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await?;
        restrict(path).await;
        Ok(Self { pool })
    }

    /// Adds a run. False when one of this id stands already (which is left as it is).
    pub async fn insert(&self, run: &Run) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO runs (run_id, name, job, args, conf, deploy_mode, supervise, user, priority, state, attempt, failures, \
             submitted_at_ms, started_at_ms, ended_at_ms, error, progress, executor_id, placed_at_ms, kill_requested_at_ms, report) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO NOTHING",
        )
        .bind(&run.run_id)
        .bind(&run.name)
        .bind(&run.job)
        .bind(json(&run.args))
        .bind(json(&run.conf))
        .bind(run.deploy_mode.label())
        .bind(run.supervise)
        .bind(&run.user)
        .bind(run.priority)
        .bind(run.state.label())
        .bind(i64::from(run.attempt))
        .bind(i64::from(run.failures))
        .bind(run.submitted_at_ms)
        .bind(run.started_at_ms)
        .bind(run.ended_at_ms)
        .bind(run.error.as_ref().map(json))
        .bind(run.progress.as_ref().map(json))
        .bind(&run.executor_id)
        .bind(run.placed_at_ms)
        .bind(run.kill_requested_at_ms)
        .bind(&run.report_json)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes what a transition can change.
    pub async fn update(&self, run: &Run) -> Result<()> {
        sqlx::query(
            "UPDATE runs SET state = ?, attempt = ?, failures = ?, started_at_ms = ?, ended_at_ms = ?, error = ?, progress = ?, \
             executor_id = ?, placed_at_ms = ?, kill_requested_at_ms = ?, report = ? WHERE run_id = ?",
        )
        .bind(run.state.label())
        .bind(i64::from(run.attempt))
        .bind(i64::from(run.failures))
        .bind(run.started_at_ms)
        .bind(run.ended_at_ms)
        .bind(run.error.as_ref().map(json))
        .bind(run.progress.as_ref().map(json))
        .bind(&run.executor_id)
        .bind(run.placed_at_ms)
        .bind(run.kill_requested_at_ms)
        .bind(&run.report_json)
        .bind(&run.run_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// One run.
    pub async fn get(&self, run_id: &str) -> Result<Option<Run>> {
        let row = sqlx::query("SELECT * FROM runs WHERE run_id = ?").bind(run_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(run_of).transpose()
    }

    /// Runs that have not ended, oldest first: what a restarted scheduler goes on with.
    pub async fn open_runs(&self) -> Result<Vec<Run>> {
        let rows = sqlx::query("SELECT * FROM runs WHERE state NOT IN ('finished', 'failed', 'killed', 'lost') ORDER BY submitted_at_ms, run_id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(run_of).collect()
    }

    /// Runs that match, newest first, and how many match in all.
    pub async fn list(&self, filter: &Filter) -> Result<(Vec<Run>, u64)> {
        let mut count = QueryBuilder::<Sqlite>::new("SELECT COUNT(*) FROM runs WHERE 1 = 1");
        push_filter(&mut count, filter);
        let total: i64 = count.build().fetch_one(&self.pool).await?.try_get(0)?;
        let mut select = QueryBuilder::<Sqlite>::new("SELECT * FROM runs WHERE 1 = 1");
        push_filter(&mut select, filter);
        select.push(" ORDER BY submitted_at_ms DESC, run_id LIMIT ").push_bind(i64::from(filter.limit));
        select.push(" OFFSET ").push_bind(i64::from(filter.offset));
        let rows = select.build().fetch_all(&self.pool).await?;
        Ok((rows.iter().map(run_of).collect::<Result<_>>()?, u64::try_from(total).unwrap_or_default()))
    }

    /// Number of runs by state.
    pub async fn count_by_state(&self) -> Result<BTreeMap<RunState, u64>> {
        let rows = sqlx::query("SELECT state, COUNT(*) FROM runs GROUP BY state").fetch_all(&self.pool).await?;
        let mut counts = BTreeMap::new();
        for row in rows {
            let (label, n): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(state) = RunState::from_label(&label) {
                counts.insert(state, u64::try_from(n).unwrap_or_default());
            }
        }
        Ok(counts)
    }

    /// Notes that a Ballista job belongs to a run; a repeat changes nothing.
    pub async fn insert_query(&self, query: &RunQuery) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO run_queries (job_id, run_id, attempt, label, statement, registered_at_ms) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (job_id) DO NOTHING",
        )
        .bind(&query.job_id)
        .bind(&query.run_id)
        .bind(i64::from(query.attempt))
        .bind(&query.label)
        .bind(&query.statement)
        .bind(query.registered_at_ms)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The latest queries of a run, in the order of their registration.
    pub async fn queries_of(&self, run_id: &str, limit: u32) -> Result<Vec<RunQuery>> {
        let rows = sqlx::query(
            "SELECT * FROM (SELECT * FROM run_queries WHERE run_id = ? ORDER BY registered_at_ms DESC, job_id DESC LIMIT ?) \
             ORDER BY registered_at_ms, job_id",
        )
        .bind(run_id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(query_of).collect()
    }

    /// Number of queries of each of these runs.
    pub async fn query_counts(&self, run_ids: &[String]) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        if run_ids.is_empty() {
            return Ok(counts);
        }
        let mut select = QueryBuilder::<Sqlite>::new("SELECT run_id, COUNT(*) FROM run_queries WHERE run_id IN (");
        let mut ids = select.separated(", ");
        for run_id in run_ids {
            ids.push_bind(run_id);
        }
        select.push(") GROUP BY run_id");
        for row in select.build().fetch_all(&self.pool).await? {
            let (run_id, n): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            counts.insert(run_id, u64::try_from(n).unwrap_or_default());
        }
        Ok(counts)
    }

    /// The run that a query belongs to.
    pub async fn query(&self, job_id: &str) -> Result<Option<RunQuery>> {
        let row = sqlx::query("SELECT * FROM run_queries WHERE job_id = ?").bind(job_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(query_of).transpose()
    }

    /// Those of these queries that belong to runs, by job id.
    pub async fn queries_in(&self, job_ids: &[String]) -> Result<BTreeMap<String, RunQuery>> {
        let mut found = BTreeMap::new();
        // Far below SQLite's limit of variables.
        for some in job_ids.chunks(500) {
            let mut select = QueryBuilder::<Sqlite>::new("SELECT * FROM run_queries WHERE job_id IN (");
            let mut ids = select.separated(", ");
            for job_id in some {
                ids.push_bind(job_id);
            }
            select.push(")");
            for row in &select.build().fetch_all(&self.pool).await? {
                let query = query_of(row)?;
                found.insert(query.job_id.clone(), query);
            }
        }
        Ok(found)
    }

    /// Queries that were issued again because the try before did not count.
    pub async fn repeats_total(&self) -> Result<u64> {
        let row = sqlx::query("SELECT COUNT(*) FROM run_queries WHERE attempt > 1").fetch_one(&self.pool).await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The store holds configurations in the clear: nobody but its owner reads it.
async fn restrict(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if let Err(error) = tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).await {
            tracing::warn!(path = %path.display(), %error, "could not restrict access to the run store");
        }
    }
}

fn push_filter(query: &mut QueryBuilder<'_, Sqlite>, filter: &Filter) {
    if !filter.states.is_empty() {
        query.push(" AND state IN (");
        let mut states = query.separated(", ");
        for state in &filter.states {
            states.push_bind(state.label());
        }
        query.push(")");
    }
    if let Some(job) = &filter.job {
        query.push(" AND job = ").push_bind(job.clone());
    }
    if let Some(text) = &filter.text {
        let like = format!("%{}%", text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        query.push(" AND (run_id || ' ' || name || ' ' || job || ' ' || user) LIKE ").push_bind(like).push(" ESCAPE '\\'");
    }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Strings, lists and maps of strings always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn run_of(row: &SqliteRow) -> Result<Run> {
    let run_id: String = row.try_get("run_id")?;
    let bad = |what: &str| StoreError::BadRow { run_id: run_id.clone(), what: what.to_owned() };
    let state: String = row.try_get("state")?;
    let deploy_mode: String = row.try_get("deploy_mode")?;
    let args: String = row.try_get("args")?;
    let conf: String = row.try_get("conf")?;
    let error: Option<String> = row.try_get("error")?;
    let progress: Option<String> = row.try_get("progress")?;
    Ok(Run {
        name: row.try_get("name")?,
        job: row.try_get("job")?,
        args: serde_json::from_str(&args).map_err(|_| bad("args"))?,
        conf: serde_json::from_str(&conf).map_err(|_| bad("conf"))?,
        deploy_mode: DeployMode::from_label(&deploy_mode),
        supervise: row.try_get("supervise")?,
        user: row.try_get("user")?,
        priority: row.try_get("priority")?,
        state: RunState::from_label(&state).ok_or_else(|| bad("state"))?,
        attempt: unsigned(row.try_get("attempt")?),
        failures: unsigned(row.try_get("failures")?),
        submitted_at_ms: row.try_get("submitted_at_ms")?,
        started_at_ms: row.try_get("started_at_ms")?,
        ended_at_ms: row.try_get("ended_at_ms")?,
        error: error.and_then(|error| serde_json::from_str::<RunError>(&error).ok()),
        progress: progress.and_then(|progress| serde_json::from_str::<Progress>(&progress).ok()),
        executor_id: row.try_get("executor_id")?,
        placed_at_ms: row.try_get("placed_at_ms")?,
        kill_requested_at_ms: row.try_get("kill_requested_at_ms")?,
        report_json: row.try_get("report")?,
        run_id,
    })
}

fn query_of(row: &SqliteRow) -> Result<RunQuery> {
    Ok(RunQuery {
        job_id: row.try_get("job_id")?,
        run_id: row.try_get("run_id")?,
        attempt: unsigned(row.try_get("attempt")?),
        label: row.try_get("label")?,
        statement: row.try_get("statement")?,
        registered_at_ms: row.try_get("registered_at_ms")?,
    })
}

fn unsigned(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::runs::states::test_run;

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("chainalytics-store-{}", uuid::Uuid::new_v4())))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn sample(id: &str, state: RunState, submitted_at_ms: i64) -> Run {
        Run {
            run_id: id.to_owned(),
            name: format!("name of {id}"),
            args: vec!["--trigger".to_owned(), "once".to_owned()],
            conf: BTreeMap::from([("s3.secret-access-key".to_owned(), "x".to_owned())]),
            state,
            submitted_at_ms,
            error: Some(RunError { code: "C".to_owned(), message: "m".to_owned() }),
            progress: Some(Progress { stage: "s".to_owned(), done: 1, total: 2, rows: 3, ..Progress::default() }),
            ..test_run(DeployMode::Cluster, true)
        }
    }

    #[tokio::test]
    async fn open_runs_survive_a_restart() {
        let dir = Dir::new();
        let path = dir.0.join("scheduler").join("runs.db");
        let store = RunStore::open(&path).await.unwrap();
        let running = sample("a", RunState::Running, 1);
        assert!(store.insert(&running).await.unwrap());
        assert!(!store.insert(&sample("a", RunState::Queued, 9)).await.unwrap(), "an id is taken once");
        store.insert(&sample("b", RunState::Queued, 2)).await.unwrap();
        store.insert(&sample("c", RunState::Finished, 3)).await.unwrap();
        store.close().await;

        let store = RunStore::open(&path).await.unwrap();
        let open = store.open_runs().await.unwrap();
        assert_eq!(open.iter().map(|run| run.run_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(open[0], running, "every field comes back");
        let ended = Run { state: RunState::Lost, ended_at_ms: Some(7), ..running };
        store.update(&ended).await.unwrap();
        assert_eq!(store.get("a").await.unwrap(), Some(ended));
        assert_eq!(store.count_by_state().await.unwrap()[&RunState::Lost], 1);
    }

    #[tokio::test]
    async fn lists_are_filtered_and_newest_first() {
        let dir = Dir::new();
        let store = RunStore::open(&dir.0.join("runs.db")).await.unwrap();
        for (id, state, at) in [("a", RunState::Running, 1), ("b_%", RunState::Failed, 2), ("c", RunState::Failed, 3)] {
            store.insert(&sample(id, state, at)).await.unwrap();
        }
        let ids = |runs: Vec<Run>| runs.into_iter().map(|run| run.run_id).collect::<Vec<_>>();
        let all = Filter { limit: 2, ..Filter::default() };
        let (page, total) = store.list(&all).await.unwrap();
        assert_eq!((ids(page), total), (vec!["c".to_owned(), "b_%".to_owned()], 3));
        let failed = Filter { states: vec![RunState::Failed], text: Some("b_%".to_owned()), limit: 10, ..Filter::default() };
        assert_eq!(ids(store.list(&failed).await.unwrap().0), ["b_%"]);
    }

    #[tokio::test]
    async fn queries_belong_to_runs() {
        let dir = Dir::new();
        let store = RunStore::open(&dir.0.join("runs.db")).await.unwrap();
        store.insert(&sample("a", RunState::Running, 1)).await.unwrap();
        for i in 0..3 {
            let query = RunQuery {
                job_id: format!("j{i}"),
                run_id: "a".to_owned(),
                attempt: 1,
                label: "l".to_owned(),
                statement: "select 1".to_owned(),
                registered_at_ms: i,
            };
            assert!(store.insert_query(&query).await.unwrap());
            assert!(!store.insert_query(&query).await.unwrap());
        }
        let latest = store.queries_of("a", 2).await.unwrap();
        assert_eq!(latest.iter().map(|q| q.job_id.as_str()).collect::<Vec<_>>(), ["j1", "j2"]);
        assert_eq!(store.query_counts(&["a".to_owned()]).await.unwrap()["a"], 3);
        assert_eq!(store.query("j0").await.unwrap().unwrap().run_id, "a");
    }
}
