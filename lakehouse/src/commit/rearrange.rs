//! Manifests written anew without a change of files: many small ones into few, entries sorted by partition, so that a
//! filter on the partition reads few of them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use chainalytics_common::Result;
use iceberg::spec::{DataFile, ManifestContentType, ManifestEntry, ManifestFile};
use serde_json::Value;

use super::manifests::{ManifestFactory, files_with_row_ids, keep, load_all};
use crate::err;
use crate::write::partition_json;

/// What became of the manifests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rearranged {
    pub created: usize,
    pub kept: usize,
    pub replaced: usize,
    pub entries: usize,
}

impl Rearranged {
    pub fn summary(&self) -> BTreeMap<String, String> {
        [
            ("manifests-created", self.created),
            ("manifests-kept", self.kept),
            ("manifests-replaced", self.replaced),
            ("entries-processed", self.entries),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_string()))
        .into()
    }
}

/// Sets of manifests that one rewriting joins, and how many each becomes. Sets that are already as they should be are
/// left out.
pub(crate) fn plan(manifests: &[ManifestFile], spec_id: Option<i32>, target_bytes: i64) -> Vec<(Vec<ManifestFile>, usize)> {
    let mut sets: BTreeMap<(bool, i32), Vec<ManifestFile>> = BTreeMap::new();
    for file in manifests.iter().filter(|file| spec_id.is_none_or(|id| file.partition_spec_id == id)) {
        let key = (file.content == ManifestContentType::Deletes, file.partition_spec_id);
        sets.entry(key).or_default().push(file.clone());
    }
    let wanted = |files: &[ManifestFile]| {
        let bytes: i64 = files.iter().map(|file| file.manifest_length).sum();
        usize::try_from(bytes.div_euclid(target_bytes.max(1))).unwrap_or(0) + 1
    };
    sets.into_values()
        .map(|files| {
            let count = wanted(&files);
            (files, count)
        })
        .filter(|(files, count)| files.len() > 1 || *count > 1)
        .collect()
}

struct Sortable {
    partition: Vec<Value>,
    entry: Arc<ManifestEntry>,
    file: DataFile,
}

impl ManifestFactory<'_> {
    /// Writes the manifests that [`plan`] chooses anew.
    pub async fn rearranged(&mut self, existing: Vec<ManifestFile>, spec_id: Option<i32>) -> Result<(Vec<ManifestFile>, Rearranged)> {
        let sets = plan(&existing, spec_id, self.target_bytes());
        let chosen: Vec<&str> = sets.iter().flat_map(|(files, _)| files.iter().map(|file| file.manifest_path.as_str())).collect();
        let mut result: Vec<ManifestFile> = existing.iter().filter(|file| !chosen.contains(&file.manifest_path.as_str())).cloned().collect();
        let mut done = Rearranged { kept: result.len(), ..Rearranged::default() };
        for (files, count) in sets {
            let manifests = load_all(self.table, &files).await?;
            let newest = manifests.iter().max_by_key(|manifest| manifest.metadata().schema_id);
            let meta = newest.ok_or_else(|| err::internal("a set of no manifests"))?.metadata().clone();
            let partition_type = meta.partition_spec.partition_type(&meta.schema).map_err(err::iceberg)?;
            let mut entries = Vec::new();
            for (file, manifest) in files.iter().zip(&manifests) {
                for (entry, file) in files_with_row_ids(self.metadata.format_version(), file, manifest)? {
                    let partition = partition_json(file.partition(), &partition_type)?;
                    entries.push(Sortable { partition, entry, file });
                }
            }
            entries.sort_by(|a, b| compare_all(&a.partition, &b.partition));
            done.entries += entries.len();
            done.replaced += files.len();
            let share = entries.len().div_ceil(count).max(1);
            for part in entries.chunks(share) {
                let mut writer = self.writer(Arc::clone(&meta.schema), &meta.partition_spec, meta.content)?;
                for Sortable { entry, file, .. } in part {
                    keep(&mut writer, entry, file.clone())?;
                }
                result.push(writer.write_manifest_file().await.map_err(err::iceberg)?);
                done.created += 1;
            }
        }
        Ok((result, done))
    }
}

fn compare_all(a: &[Value], b: &[Value]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Nulls first, numbers by value, everything else by its text: dates and times are ISO in this form.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (a, b) => a.to_string().cmp(&b.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn partitions_sort_by_value() {
        let mut keys = vec![json!(10), json!(9), Value::Null, json!(-1)];
        keys.sort_by(compare);
        assert_eq!(keys, [Value::Null, json!(-1), json!(9), json!(10)]);
        assert!(compare(&json!("2026-01-02"), &json!("2026-01-10")).is_lt());
    }
}
