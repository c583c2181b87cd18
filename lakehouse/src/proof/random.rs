//! Random sequences of operations on a table beside the model. The seed names the sequence: it is printed on failure, and
//! `TEST_PROOF_SEED` plays it again. `TEST_PROOF_SEEDS` says how many are played.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::is_long;
use super::model::{Condition, KEY, Kind, Model, NUMBER, PART, Row, TEXT, Value, Version};
use super::place::{Place, Process};
use crate::dml::WriteOptions;

const SEEDS_SHORT: u64 = 4;
const SEEDS_LONG: u64 = 300;
const STEPS: usize = 30;
/// Newest format version played. 3 has been proven by nobody yet: raise it, and the row ids are checked too.
const NEWEST: u8 = 3;
const MODES: [&str; 2] = ["copy-on-write", "merge-on-read"];
const BRANCHES: [&str; 2] = ["audit", "dev"];

struct Run {
    seed: u64,
    random: StdRng,
    model: Model,
    place: Place,
    process: Process,
    /// Statements so far.
    told: Vec<String>,
    columns_added: u32,
    extra_fields: Vec<&'static str>,
    /// Row ids seen, by key.
    row_ids: BTreeMap<i64, i64>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let version = random.random_range(1..=NEWEST);
        let place = Place::new();
        let process = place.process(None).await;
        let partition = ["", "PARTITIONED BY (part)", "PARTITIONED BY (bucket(3, k))", "PARTITIONED BY (truncate(1, s), part)"];
        let partition = partition[random.random_range(0..partition.len())];
        let mut run = Self {
            seed,
            random,
            model: Model::new(version),
            place,
            process,
            told: Vec::new(),
            columns_added: 0,
            extra_fields: Vec::new(),
            row_ids: BTreeMap::new(),
        };
        let mode = if version == 1 { MODES[0] } else { MODES[run.random.random_range(0..2)] };
        run.sql(&format!(
            "CREATE TABLE t (k BIGINT, part BIGINT, n INT, s STRING) {partition} TBLPROPERTIES ('format-version' = '{version}', 'write.delete.mode' = '{mode}', \
             'write.update.mode' = '{mode}', 'write.merge.mode' = '{mode}', 'commit.manifest.min-count-to-merge' = '3')"
        ))
        .await;
        run
    }

    fn story(&self) -> String {
        format!("seed {} (TEST_PROOF_SEED={} plays it again) after\n{};\n", self.seed, self.seed, self.told.join(";\n"))
    }

    async fn sql(&mut self, sql: &str) {
        self.told.push(sql.to_owned());
        if let Err(error) = self.process.try_sql(sql, WriteOptions::default()).await {
            panic!("{}: {error}", self.story());
        }
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.random_range(0..all.len())]
    }

    fn value(&mut self, kind: Kind) -> Option<Value> {
        match kind {
            _ if self.random.random_bool(0.15) => None,
            Kind::Int => Some(Value::Int(self.random.random_range(-50..50))),
            Kind::Bigint => Some(Value::Int(self.random.random_range(0..4))),
            Kind::Text => Some(Value::Text(self.pick(&["a", "b", "bb", "c", "", "é"]).to_owned())),
        }
    }

    fn new_row(&mut self) -> Row {
        let mut row = Row::from([(KEY, Value::Int(self.model.next_key()))]);
        for column in self.model.columns.clone() {
            if column.id != KEY
                && let Some(value) = self.value(column.kind)
            {
                row.insert(column.id, value);
            }
        }
        row
    }

    fn new_rows(&mut self) -> Vec<Row> {
        let count = self.random.random_range(1..8);
        (0..count).map(|_| self.new_row()).collect()
    }

    fn values(&self, rows: &[Row]) -> String {
        let tuple = |row: &Row| {
            let cells: Vec<String> = self.model.columns.iter().map(|column| Value::literal(row.get(&column.id))).collect();
            format!("({})", cells.join(", "))
        };
        rows.iter().map(tuple).collect::<Vec<_>>().join(", ")
    }

    fn condition(&mut self, depth: u32) -> Condition {
        let keys = self.model.keys();
        match self.random.random_range(0..if depth == 0 { 8 } else { 11 }) {
            0 if depth == 0 => Condition::All,
            0 | 1 => Condition::KeyIn((0..3).map(|_| self.random.random_range(0..=keys)).collect()),
            2 => Condition::KeyBelow(self.random.random_range(0..=keys)),
            3 => Condition::KeyModulo(3, self.random.random_range(0..3)),
            4 => Condition::PartIs(self.random.random_range(0..4)),
            5 => Condition::NumberAbove(self.random.random_range(-50..50)),
            6 => Condition::NumberIsNull,
            7 => Condition::TextBelow(self.pick(&["a", "b", "c"]).to_owned()),
            8 => Condition::And(Box::new(self.condition(0)), Box::new(self.condition(0))),
            9 => Condition::Or(Box::new(self.condition(0)), Box::new(self.condition(0))),
            _ => Condition::Not(Box::new(self.condition(0))),
        }
    }

    /// Main, or now and then a branch; with the table's name in SQL.
    fn target(&mut self) -> (Option<String>, String) {
        let branches: Vec<String> = self.model.branches.keys().cloned().collect();
        if branches.is_empty() || self.random.random_bool(0.7) {
            return (None, "t".to_owned());
        }
        let branch = branches[self.random.random_range(0..branches.len())].clone();
        let name = format!("t.branch_{branch}");
        (Some(branch), name)
    }

    async fn step(&mut self) {
        let version = self.model.format_version;
        match self.random.random_range(0..100) {
            0..25 => {
                let (branch, name) = self.target();
                let rows = self.new_rows();
                let sql = format!("INSERT INTO {name} ({}) VALUES {}", self.model.names(), self.values(&rows));
                self.sql(&sql).await;
                self.model.head(branch.as_deref()).extend(rows);
            }
            25..28 => {
                let rows = self.new_rows();
                let sql = format!("INSERT OVERWRITE t VALUES {}", self.values(&rows));
                self.sql("ALTER TABLE t SET TBLPROPERTIES ('write.overwrite-mode' = 'static')").await;
                self.sql(&sql).await;
                self.model.rows = rows;
            }
            28..38 => {
                let (branch, name) = self.target();
                let condition = self.condition(1);
                let sql = format!("DELETE FROM {name} WHERE {}", condition.sql(&self.model, ""));
                self.sql(&sql).await;
                self.model.head(branch.as_deref()).retain(|row| !condition.holds(row));
            }
            38..48 => self.update().await,
            48..58 => self.merge().await,
            58..64 => {
                let options = self.pick(&["'min-input-files', '2'", "'rewrite-all', 'true'", "'min-input-files', '3'"]);
                self.sql(&format!("CALL system.rewrite_data_files(table => 't', options => map({options}))")).await;
            }
            64..67 => self.sql("CALL system.rewrite_manifests(table => 't')").await,
            67..69 if version == 2 => {
                self.sql("CALL system.rewrite_position_delete_files(table => 't', options => map('rewrite-all', 'true'))").await;
            }
            69..72 => self.expire().await,
            72..75 => self.rollback().await,
            75..80 if version > 1 => self.branch().await,
            80..90 => self.evolve().await,
            90..93 => self.repartition().await,
            93..96 if version > 1 => {
                let mode = self.pick(&MODES);
                let operation = self.pick(&["delete", "update", "merge"]);
                self.sql(&format!("ALTER TABLE t SET TBLPROPERTIES ('write.{operation}.mode' = '{mode}')")).await;
            }
            96..98 if version < 2 => {
                self.sql("ALTER TABLE t SET TBLPROPERTIES ('format-version' = '2')").await;
                self.model.format_version = 2;
            }
            _ => self.look_back().await,
        }
    }

    async fn update(&mut self) {
        let (branch, name) = self.target();
        let condition = self.condition(1);
        let text = self.pick(&["x", "y"]);
        let part = self.random.random_range(0..4);
        let model = &self.model;
        let sql = format!(
            "UPDATE {name} SET {} = {} + 1, {} = '{text}', {} = {part} WHERE {}",
            model.name(NUMBER),
            model.name(NUMBER),
            model.name(TEXT),
            model.name(PART),
            condition.sql(model, "")
        );
        self.sql(&sql).await;
        for row in self.model.head(branch.as_deref()).iter_mut().filter(|row| condition.holds(row)) {
            if let Some(Value::Int(number)) = row.get_mut(&NUMBER) {
                *number += 1;
            }
            row.insert(TEXT, Value::Text(text.to_owned()));
            row.insert(PART, Value::Int(part));
        }
    }

    async fn merge(&mut self) {
        let (branch, name) = self.target();
        let mut keys: Vec<i64> = (0..4).map(|_| self.random.random_range(0..self.model.keys())).collect();
        keys.sort_unstable();
        keys.dedup();
        let present: Vec<i64> = self.model.head(branch.as_deref()).iter().filter_map(|row| if let Some(Value::Int(key)) = row.get(&KEY) { Some(*key) } else { None }).collect();
        // A key comes back only where it is: two branches may both have it.
        keys.retain(|key| present.contains(key));
        keys.push(self.model.next_key());
        keys.push(self.model.next_key());
        let source: Vec<(i64, i64)> = keys.iter().map(|key| (*key, self.random.random_range(-50..50))).collect();
        let rows: Vec<String> = source.iter().map(|(key, number)| format!("({key}, {number})")).collect();
        let by_source = self.random.random_bool(0.2);
        let gone = self.condition(0);
        let model = &self.model;
        let sql = format!(
            "MERGE INTO {name} AS t USING (SELECT column1 AS sk, column2 AS sn FROM (VALUES {})) AS src ON t.{k} = src.sk \
             WHEN MATCHED AND src.sn > 20 THEN DELETE WHEN MATCHED THEN UPDATE SET {n} = src.sn \
             WHEN NOT MATCHED THEN INSERT ({k}, {p}, {n}) VALUES (src.sk, 1, src.sn){}",
            rows.join(", "),
            if by_source { format!(" WHEN NOT MATCHED BY SOURCE AND {} THEN DELETE", gone.sql(model, "t.")) } else { String::new() },
            k = model.name(KEY),
            p = model.name(PART),
            n = model.name(NUMBER),
        );
        self.sql(&sql).await;
        let head = self.model.head(branch.as_deref());
        let given: BTreeMap<i64, i64> = source.into_iter().collect();
        let mut kept = Vec::new();
        for mut row in std::mem::take(head) {
            let Some(Value::Int(key)) = row.get(&KEY) else { panic!("a row without a key") };
            match given.get(key) {
                Some(number) if *number > 20 => continue,
                Some(number) => drop(row.insert(NUMBER, Value::Int(*number))),
                None if by_source && gone.holds(&row) => continue,
                None => {}
            }
            kept.push(row);
        }
        for (key, number) in given.into_iter().filter(|(key, _)| !present.contains(key)) {
            kept.push(Row::from([(KEY, Value::Int(key)), (PART, Value::Int(1)), (NUMBER, Value::Int(number))]));
        }
        *head = kept;
    }

    async fn expire(&mut self) {
        let keep = self.random.random_range(1..4);
        self.sql(&format!("CALL system.expire_snapshots(table => 't', older_than => now(), retain_last => {keep})")).await;
        let left = self.snapshot_ids().await;
        self.model.snapshots.retain(|id, _| left.contains(id));
        self.process.check_files("t").await;
    }

    /// To an ancestor of main.
    async fn rollback(&mut self) {
        let ancestors = self.process.rows("SELECT snapshot_id FROM t.history WHERE is_current_ancestor").await;
        let known: Vec<i64> = ancestors.iter().filter_map(|id| id.parse().ok()).filter(|id| self.model.snapshots.contains_key(id)).collect();
        if known.is_empty() {
            return;
        }
        let id = self.pick(&known);
        self.told.push(format!("-- one of {} snapshots", known.len()));
        self.sql(&format!("CALL system.rollback_to_snapshot('t', {id})")).await;
        self.model.rows = self.model.snapshots[&id].rows.clone();
    }

    async fn branch(&mut self) {
        let name = self.pick(&BRANCHES);
        if self.model.branches.remove(name).is_some() {
            return self.sql(&format!("ALTER TABLE t DROP BRANCH {name}")).await;
        }
        self.sql(&format!("ALTER TABLE t CREATE BRANCH {name}")).await;
        let rows = self.model.rows.clone();
        self.model.branches.insert(name.to_owned(), rows);
    }

    async fn evolve(&mut self) {
        let columns = self.model.columns.clone();
        let column = columns[self.random.random_range(0..columns.len())].clone();
        match self.random.random_range(0..5) {
            0 => {
                self.columns_added += 1;
                let (kind, spelled) = self.pick(&[(Kind::Bigint, "BIGINT"), (Kind::Text, "STRING")]);
                let name = format!("extra_{}", self.columns_added);
                self.sql(&format!("ALTER TABLE t ADD COLUMN {name} {spelled}")).await;
                self.model.add_column(&name, kind);
            }
            1 if column.id > TEXT => {
                self.sql(&format!("ALTER TABLE t DROP COLUMN {}", column.name)).await;
                self.model.columns.retain(|other| other.id != column.id);
            }
            2 => {
                self.columns_added += 1;
                let name = format!("renamed_{}", self.columns_added);
                self.sql(&format!("ALTER TABLE t RENAME COLUMN {} TO {name}", column.name)).await;
                self.model.columns.iter_mut().find(|other| other.id == column.id).unwrap().name = name;
            }
            3 if column.kind == Kind::Int => {
                self.sql(&format!("ALTER TABLE t ALTER COLUMN {} TYPE BIGINT", column.name)).await;
                self.model.columns.iter_mut().find(|other| other.id == column.id).unwrap().kind = Kind::Bigint;
            }
            _ => {
                self.sql(&format!("ALTER TABLE t ALTER COLUMN {} FIRST", column.name)).await;
                let at = self.model.columns.iter().position(|other| other.id == column.id).unwrap();
                let column = self.model.columns.remove(at);
                self.model.columns.insert(0, column);
            }
        }
    }

    async fn repartition(&mut self) {
        let field = self.pick(&["bucket_k", "truncate_s", "identity_n"]);
        if let Some(at) = self.extra_fields.iter().position(|known| *known == field) {
            self.extra_fields.remove(at);
            return self.sql(&format!("ALTER TABLE t DROP PARTITION FIELD {field}")).await;
        }
        let term = match field {
            "bucket_k" => format!("bucket(5, {})", self.model.name(KEY)),
            "truncate_s" => format!("truncate(2, {})", self.model.name(TEXT)),
            _ => format!("truncate(40, {})", self.model.name(NUMBER)),
        };
        self.sql(&format!("ALTER TABLE t ADD PARTITION FIELD {term} AS {field}")).await;
        self.extra_fields.push(field);
    }

    async fn snapshot_ids(&self) -> Vec<i64> {
        self.process.rows("SELECT snapshot_id FROM t.snapshots").await.iter().map(|id| id.parse().unwrap()).collect()
    }

    async fn expect(&self, sql: &str, expected: Vec<String>) {
        match self.process.try_rows(sql).await {
            Ok(rows) => assert!(rows == expected, "{}{sql} gave\n{rows:#?}\ninstead of\n{expected:#?}", self.story()),
            Err(error) => panic!("{}{sql}: {error}", self.story()),
        }
    }

    /// Rows of main and of every branch, and a random condition's rows.
    async fn check(&mut self) {
        let names = self.model.names();
        let now = self.model.version(&self.model.rows);
        self.expect(&format!("SELECT {names} FROM t"), now.shown(&Condition::All)).await;
        let condition = self.condition(1);
        self.expect(&format!("SELECT {names} FROM t WHERE {}", condition.sql(&self.model, "")), now.shown(&condition)).await;
        self.expect("SELECT count(*) FROM t", vec![self.model.rows.len().to_string()]).await;
        for (branch, rows) in &self.model.branches {
            self.expect(&format!("SELECT {names} FROM t.branch_{branch}"), self.model.version(rows).shown(&Condition::All)).await;
        }
    }

    /// Remembers the newest snapshots of main and branches.
    async fn remember(&mut self) {
        let table = self.process.table("t").await;
        let metadata = table.metadata();
        let heads: Vec<(Option<String>, i64)> = std::iter::once((None, table.current_snapshot_id()))
            .chain(self.model.branches.keys().map(|branch| (Some(branch.clone()), metadata.snapshot_for_ref(branch).map(|snapshot| snapshot.snapshot_id()))))
            .filter_map(|(branch, id)| Some((branch, id?)))
            .collect();
        for (branch, id) in heads {
            let rows = self.model.head(branch.as_deref()).clone();
            let version: Version = self.model.version(&rows);
            self.model.snapshots.entry(id).or_insert(version);
        }
    }

    /// An old snapshot gives its old rows, with its old columns.
    async fn look_back(&mut self) {
        let ids: Vec<i64> = self.model.snapshots.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = self.pick(&ids);
        let version = self.model.snapshots[&id].clone();
        self.expect(&format!("SELECT * FROM t VERSION AS OF {id}"), version.shown(&Condition::All)).await;
    }

    /// Row ids are unique and stay with their rows.
    async fn check_row_ids(&mut self) {
        if self.model.format_version < 3 || self.model.rows.is_empty() {
            return;
        }
        let sql = format!("SELECT _row_id, {} FROM t", self.model.name(KEY));
        let rows = self.process.try_rows(&sql).await.unwrap_or_else(|error| panic!("{}{sql}: {error}", self.story()));
        let mut keys_by_id: BTreeMap<i64, i64> = BTreeMap::new();
        for row in rows {
            let (id, key) = row.split_once('|').unwrap();
            let (id, key): (i64, i64) = (id.parse().unwrap_or_else(|_| panic!("{}row id {id} of row {key}", self.story())), key.parse().unwrap());
            if let Some(other) = keys_by_id.insert(id, key) {
                panic!("{}rows {key} and {other} share the row id {id}", self.story());
            }
            let known = *self.row_ids.entry(key).or_insert(id);
            assert!(known == id, "{}the row id of row {key} was {known} and is {id}", self.story());
        }
    }
}

async fn play(seed: u64) {
    let mut run = Run::new(seed).await;
    for _ in 0..STEPS {
        run.step().await;
        run.check().await;
        run.check_row_ids().await;
        run.remember().await;
    }
    // Everything that can still be read, by a process that has read nothing yet.
    run.process = run.place.process(None).await;
    let versions = run.model.snapshots.clone();
    for (id, version) in versions {
        run.expect(&format!("SELECT * FROM t VERSION AS OF {id}"), version.shown(&Condition::All)).await;
    }
    run.check().await;
    run.process.check_files("t").await;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_do_what_they_do_to_plain_rows() {
    if let Some(seed) = number("TEST_PROOF_SEED") {
        return play(seed).await;
    }
    let seeds = number("TEST_PROOF_SEEDS").unwrap_or(if is_long() { SEEDS_LONG } else { SEEDS_SHORT });
    let mut failed = Vec::new();
    for seed in 1..=seeds {
        if tokio::spawn(play(seed)).await.is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} of {seeds} failed");
    println!("{seeds} seeds of {STEPS} operations");
}
