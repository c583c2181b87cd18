//! Committed offsets of consumer groups.
//!
//! On disk a file of JSON lines, one per commit; the last one of a group and partition counts. It is rewritten with the
//! living entries at start and whenever it has grown to several times their number.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FILE: &str = "group-offsets.jsonl";
/// Lines beyond the living ones before the file is rewritten.
const GARBAGE_LINES_MAX: usize = 10_000;
/// Longest metadata text of a commit, as in Apache Kafka.
pub const METADATA_BYTES_MAX: usize = 4096;

/// One committed position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Next offset to read.
    pub offset: i64,
    /// Leader epoch that the client gave.
    pub leader_epoch: i32,
    /// Text that the client gave.
    pub metadata: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    group: String,
    topic: String,
    partition: i32,
    /// `None` removes the entry.
    committed: Option<Committed>,
}

type GroupOffsets = BTreeMap<(String, i32), Committed>;

#[derive(Debug)]
struct State {
    groups: HashMap<String, GroupOffsets>,
    file: File,
    lines: usize,
}

/// All committed offsets. Functions that change something block on the file system.
#[derive(Debug)]
pub struct OffsetStore {
    path: PathBuf,
    groups_max: usize,
    state: Mutex<State>,
}

impl OffsetStore {
    /// Opens the store under `dir`. A torn last line (killed while writing) is dropped.
    pub fn open(dir: &Path, groups_max: usize) -> io::Result<Self> {
        let path = dir.join(FILE);
        let mut groups: HashMap<String, GroupOffsets> = HashMap::new();
        if path.exists() {
            for line in BufReader::new(File::open(&path)?).split(b'\n') {
                match serde_json::from_slice::<Line>(&line?) {
                    Ok(line) => apply(&mut groups, line),
                    Err(error) => tracing::warn!(%error, "dropped an unreadable committed offset"),
                }
            }
        }
        let (file, lines) = rewrite(&path, &groups)?;
        Ok(Self { path, groups_max, state: Mutex::new(State { groups, file, lines }) })
    }

    /// Stores positions of one group. `Ok(false)`: too many groups, nothing stored.
    pub fn commit(&self, group: &str, positions: Vec<(String, i32, Committed)>) -> io::Result<bool> {
        let mut state = self.state.lock();
        if !state.groups.contains_key(group) && state.groups.len() >= self.groups_max {
            return Ok(false);
        }
        let lines =
            positions.into_iter().map(|(topic, partition, committed)| Line { group: group.to_owned(), topic, partition, committed: Some(committed) });
        self.write(&mut state, lines.collect())?;
        Ok(true)
    }

    /// The position of a group in a partition.
    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let state = self.state.lock();
        state.groups.get(group)?.get(&(topic.to_owned(), partition)).cloned()
    }

    /// All positions of a group.
    pub fn all(&self, group: &str) -> Vec<(String, i32, Committed)> {
        let state = self.state.lock();
        let Some(offsets) = state.groups.get(group) else { return Vec::new() };
        offsets.iter().map(|((topic, partition), c)| (topic.clone(), *partition, c.clone())).collect()
    }

    /// Groups that have positions.
    pub fn groups(&self) -> Vec<String> {
        self.state.lock().groups.keys().cloned().collect()
    }

    /// Removes a group's positions. `false` if there were none.
    pub fn remove_group(&self, group: &str) -> io::Result<bool> {
        self.remove(|g, _| g == group)
    }

    /// Removes every group's positions in a deleted topic.
    pub fn remove_topic(&self, topic: &str) -> io::Result<bool> {
        self.remove(|_, t| t == topic)
    }

    fn remove(&self, matches: impl Fn(&str, &str) -> bool) -> io::Result<bool> {
        let mut state = self.state.lock();
        let mut lines = Vec::new();
        for (group, offsets) in &state.groups {
            for (topic, partition) in offsets.keys() {
                if matches(group, topic) {
                    let (group, topic, partition) = (group.clone(), topic.clone(), *partition);
                    lines.push(Line { group, topic, partition, committed: None });
                }
            }
        }
        let any = !lines.is_empty();
        self.write(&mut state, lines)?;
        Ok(any)
    }

    fn write(&self, state: &mut State, lines: Vec<Line>) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(lines.len() * 128);
        for line in &lines {
            serde_json::to_writer(&mut buffer, line)?;
            buffer.push(b'\n');
        }
        state.file.write_all(&buffer)?;
        state.lines += lines.len();
        for line in lines {
            apply(&mut state.groups, line);
        }
        let living: usize = state.groups.values().map(BTreeMap::len).sum();
        if state.lines > GARBAGE_LINES_MAX + 2 * living {
            (state.file, state.lines) = rewrite(&self.path, &state.groups)?;
        }
        Ok(())
    }
}

fn apply(groups: &mut HashMap<String, GroupOffsets>, line: Line) {
    let key = (line.topic, line.partition);
    match line.committed {
        Some(committed) => {
            groups.entry(line.group).or_default().insert(key, committed);
        }
        None => {
            if let Some(offsets) = groups.get_mut(&line.group) {
                offsets.remove(&key);
                if offsets.is_empty() {
                    groups.remove(&line.group);
                }
            }
        }
    }
}

fn rewrite(path: &Path, groups: &HashMap<String, GroupOffsets>) -> io::Result<(File, usize)> {
    let pending = path.with_extension("new");
    let mut lines = 0;
    let mut out = BufWriter::new(File::create(&pending)?);
    for (group, offsets) in groups {
        for ((topic, partition), committed) in offsets {
            let (group, topic, committed) = (group.clone(), topic.clone(), Some(committed.clone()));
            serde_json::to_writer(&mut out, &Line { group, topic, partition: *partition, committed })?;
            out.write_all(b"\n")?;
            lines += 1;
        }
    }
    out.flush()?;
    out.get_ref().sync_all()?;
    std::fs::rename(&pending, path)?;
    Ok((OpenOptions::new().append(true).open(path)?, lines))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(offset: i64) -> Committed {
        Committed { offset, leader_epoch: -1, metadata: None }
    }

    #[test]
    fn survives_reopening_and_a_torn_line() {
        let dir = std::env::temp_dir().join(format!("broker-offsets-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let store = OffsetStore::open(&dir, 2).unwrap();
        for offset in 0..30_000 {
            assert!(store.commit("g", vec![("t".into(), 0, at(offset))]).unwrap());
        }
        store.commit("h", vec![("t".into(), 1, at(7)), ("u".into(), 0, at(8))]).unwrap();
        assert!(!store.commit("too-many", vec![("t".into(), 0, at(1))]).unwrap());
        assert!(store.state.lock().lines < 15_000);
        store.remove_topic("u").unwrap();
        drop(store);
        let mut file = OpenOptions::new().append(true).open(dir.join(FILE)).unwrap();
        file.write_all(b"{\"group\":\"g\",\"to").unwrap();
        let store = OffsetStore::open(&dir, 2).unwrap();
        assert_eq!(store.get("g", "t", 0), Some(at(29_999)));
        assert_eq!(store.all("h"), vec![("t".to_owned(), 1, at(7))]);
        assert!(store.remove_group("h").unwrap());
        assert_eq!(store.groups(), vec!["g".to_owned()]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
