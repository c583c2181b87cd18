//! What a commit asks of the server: the steps from the version that it was built on to the version that it built, and
//! what must still hold for them. Pure: it compares two versions of the metadata, so it need not know how the new one
//! came about.

use std::collections::HashMap;

use iceberg::spec::{SnapshotRef, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};

use crate::table::Refs;

/// "The one just added", in the protocol.
const LAST_ADDED: i32 = -1;

/// Updates and requirements of a commit.
pub(super) struct Difference {
    pub updates: Vec<TableUpdate>,
    pub requirements: Vec<TableRequirement>,
}

/// A version of a table: its metadata and its branches and tags.
pub(super) type Version<'a> = (&'a TableMetadata, &'a Refs);

/// Steps from `old` to `new`.
pub(super) fn difference((old, old_refs): Version<'_>, (new, new_refs): Version<'_>) -> Difference {
    let mut out = Difference { updates: Vec::new(), requirements: vec![TableRequirement::UuidMatch { uuid: old.uuid() }] };
    if old.format_version() != new.format_version() {
        out.updates.push(TableUpdate::UpgradeFormatVersion { format_version: new.format_version() });
    }
    if old.location() != new.location() {
        out.updates.push(TableUpdate::SetLocation { location: new.location().to_owned() });
    }
    out.schemas(old, new);
    out.specs(old, new);
    out.sort_orders(old, new);
    out.snapshots_and_refs((old, old_refs), (new, new_refs));
    out.statistics(old, new);
    out.properties(old, new);
    out.removed_definitions(old, new);
    out
}

impl Difference {
    fn schemas(&mut self, old: &TableMetadata, new: &TableMetadata) {
        let mut added: Vec<_> = new.schemas_iter().filter(|schema| old.schema_by_id(schema.schema_id()).is_none()).collect();
        added.sort_by_key(|schema| schema.schema_id());
        let last = added.last().map(|schema| schema.schema_id());
        if !added.is_empty() {
            let last_assigned_field_id = old.last_column_id();
            self.requirements.push(TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id });
        }
        for schema in added {
            self.updates.push(TableUpdate::AddSchema { schema: schema.as_ref().clone() });
        }
        if old.current_schema_id() != new.current_schema_id() {
            let current_schema_id = old.current_schema_id();
            self.requirements.push(TableRequirement::CurrentSchemaIdMatch { current_schema_id });
            let schema_id = if last == Some(new.current_schema_id()) { LAST_ADDED } else { new.current_schema_id() };
            self.updates.push(TableUpdate::SetCurrentSchema { schema_id });
        }
    }

    fn specs(&mut self, old: &TableMetadata, new: &TableMetadata) {
        let mut added: Vec<_> = new.partition_specs_iter().filter(|spec| old.partition_spec_by_id(spec.spec_id()).is_none()).collect();
        added.sort_by_key(|spec| spec.spec_id());
        let last = added.last().map(|spec| spec.spec_id());
        if !added.is_empty() {
            let last_assigned_partition_id = old.last_partition_id();
            self.requirements.push(TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id });
        }
        for spec in added {
            self.updates.push(TableUpdate::AddSpec { spec: spec.as_ref().clone().into_unbound() });
        }
        if old.default_partition_spec_id() != new.default_partition_spec_id() {
            let default_spec_id = old.default_partition_spec_id();
            self.requirements.push(TableRequirement::DefaultSpecIdMatch { default_spec_id });
            let wanted = new.default_partition_spec_id();
            let spec_id = if last == Some(wanted) { LAST_ADDED } else { wanted };
            self.updates.push(TableUpdate::SetDefaultSpec { spec_id });
        }
    }

    fn sort_orders(&mut self, old: &TableMetadata, new: &TableMetadata) {
        let mut added: Vec<_> = new.sort_orders_iter().filter(|order| old.sort_order_by_id(order.order_id).is_none()).collect();
        added.sort_by_key(|order| order.order_id);
        let last = added.last().map(|order| order.order_id);
        for order in added {
            self.updates.push(TableUpdate::AddSortOrder { sort_order: order.as_ref().clone() });
        }
        if old.default_sort_order_id() != new.default_sort_order_id() {
            let default_sort_order_id = old.default_sort_order_id();
            self.requirements.push(TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id });
            let wanted = new.default_sort_order_id();
            let sort_order_id = if last == Some(wanted) { i64::from(LAST_ADDED) } else { wanted };
            self.updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id });
        }
    }

    fn snapshots_and_refs(&mut self, (old, old_refs): Version<'_>, (new, new_refs): Version<'_>) {
        let mut added: Vec<&SnapshotRef> = new.snapshots().filter(|s| old.snapshot_by_id(s.snapshot_id()).is_none()).collect();
        added.sort_by_key(|s| (s.sequence_number(), s.timestamp_ms()));
        let mut removed: Vec<i64> = old.snapshots().map(|s| s.snapshot_id()).filter(|id| new.snapshot_by_id(*id).is_none()).collect();
        removed.sort_unstable();
        if added.is_empty() && removed.is_empty() && old_refs == new_refs {
            return;
        }
        // A snapshot takes the next sequence number of the whole table, and one that goes must not be needed by a ref: so
        // no ref may have moved, not only those that this commit moves.
        for (name, reference) in old_refs {
            let snapshot_id = Some(reference.snapshot_id);
            self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: name.clone(), snapshot_id });
        }
        for name in new_refs.keys().filter(|name| !old_refs.contains_key(*name)) {
            self.requirements.push(TableRequirement::RefSnapshotIdMatch { r#ref: name.clone(), snapshot_id: None });
        }
        for snapshot in added {
            self.updates.push(TableUpdate::AddSnapshot { snapshot: snapshot.as_ref().clone() });
        }
        for name in old_refs.keys().filter(|name| !new_refs.contains_key(*name)) {
            self.updates.push(TableUpdate::RemoveSnapshotRef { ref_name: name.clone() });
        }
        for (name, reference) in new_refs {
            if old_refs.get(name) != Some(reference) {
                self.updates.push(TableUpdate::SetSnapshotRef { ref_name: name.clone(), reference: reference.clone() });
            }
        }
        if !removed.is_empty() {
            self.updates.push(TableUpdate::RemoveSnapshots { snapshot_ids: removed });
        }
    }

    fn statistics(&mut self, old: &TableMetadata, new: &TableMetadata) {
        for file in new.statistics_iter() {
            if old.statistics_for_snapshot(file.snapshot_id) != Some(file) {
                self.updates.push(TableUpdate::SetStatistics { statistics: file.clone() });
            }
        }
        for file in new.partition_statistics_iter() {
            if old.partition_statistics_for_snapshot(file.snapshot_id) != Some(file) {
                self.updates.push(TableUpdate::SetPartitionStatistics { partition_statistics: file.clone() });
            }
        }
        // Those of a removed snapshot go with it.
        let stays = |id: i64| new.snapshot_by_id(id).is_some();
        for file in old.statistics_iter().filter(|file| stays(file.snapshot_id)) {
            if new.statistics_for_snapshot(file.snapshot_id).is_none() {
                self.updates.push(TableUpdate::RemoveStatistics { snapshot_id: file.snapshot_id });
            }
        }
        for file in old.partition_statistics_iter().filter(|file| stays(file.snapshot_id)) {
            if new.partition_statistics_for_snapshot(file.snapshot_id).is_none() {
                self.updates.push(TableUpdate::RemovePartitionStatistics { snapshot_id: file.snapshot_id });
            }
        }
    }

    fn properties(&mut self, old: &TableMetadata, new: &TableMetadata) {
        let set: HashMap<String, String> = new
            .properties()
            .iter()
            .filter(|(key, value)| old.properties().get(*key) != Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let mut removals: Vec<String> = old.properties().keys().filter(|key| !new.properties().contains_key(*key)).cloned().collect();
        removals.sort();
        if !set.is_empty() {
            self.updates.push(TableUpdate::SetProperties { updates: set });
        }
        if !removals.is_empty() {
            self.updates.push(TableUpdate::RemoveProperties { removals });
        }
    }

    fn removed_definitions(&mut self, old: &TableMetadata, new: &TableMetadata) {
        let mut spec_ids: Vec<i32> =
            old.partition_specs_iter().map(|spec| spec.spec_id()).filter(|id| new.partition_spec_by_id(*id).is_none()).collect();
        spec_ids.sort_unstable();
        if !spec_ids.is_empty() {
            self.updates.push(TableUpdate::RemovePartitionSpecs { spec_ids });
        }
        let mut schema_ids: Vec<i32> = old.schemas_iter().map(|schema| schema.schema_id()).filter(|id| new.schema_by_id(*id).is_none()).collect();
        schema_ids.sort_unstable();
        if !schema_ids.is_empty() {
            self.updates.push(TableUpdate::RemoveSchemas { schema_ids });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use iceberg::spec::{
        FormatVersion, NestedField, Operation, PrimitiveType, Schema, Snapshot, SnapshotReference, SnapshotRetention, SortOrder, Summary,
        TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
    };

    use super::*;
    use crate::table::references;

    fn schema(columns: i32) -> Schema {
        let field = |id: i32| NestedField::optional(id, format!("c{id}"), Type::Primitive(PrimitiveType::Long)).into();
        Schema::builder().with_fields((1..=columns).map(field).collect::<Vec<_>>()).build().unwrap()
    }

    fn table() -> TableMetadata {
        let spec = UnboundPartitionSpec::builder().build();
        let properties = HashMap::from([("stays".to_owned(), "1".to_owned()), ("goes".to_owned(), "1".to_owned())]);
        let order = SortOrder::unsorted_order();
        TableMetadataBuilder::new(schema(2), spec, order, "s3://b/t".to_owned(), FormatVersion::V2, properties).unwrap().build().unwrap().metadata
    }

    fn snapshot(id: i64, parent: Option<i64>, sequence_number: i64) -> Snapshot {
        Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(chrono::Utc::now().timestamp_millis() + sequence_number)
            .with_manifest_list(format!("s3://b/t/{id}.avro"))
            .with_summary(Summary { operation: Operation::Append, additional_properties: HashMap::new() })
            .with_schema_id(0)
            .build()
    }

    fn steps(old: &TableMetadata, new: &TableMetadata) -> Difference {
        difference((old, &references(old).unwrap()), (new, &references(new).unwrap()))
    }

    /// What the server would make of the updates.
    fn applied(old: &TableMetadata, steps: Difference) -> TableMetadata {
        for requirement in &steps.requirements {
            requirement.check(Some(old)).unwrap();
        }
        let mut builder = old.clone().into_builder(None);
        for update in steps.updates {
            builder = update.apply(builder).unwrap();
        }
        builder.build().unwrap().metadata
    }

    #[test]
    fn the_updates_lead_from_the_old_version_to_the_new() {
        let old = table().into_builder(None).set_branch_snapshot(snapshot(1, None, 1), "main").unwrap();
        let old = old.build().unwrap().metadata;
        let tag = SnapshotReference { snapshot_id: 1, retention: SnapshotRetention::Tag { max_ref_age_ms: None } };
        let spec = UnboundPartitionSpec::builder().add_partition_field(1, "c1_bucket", Transform::Bucket(4)).unwrap();
        let new = old
            .clone()
            .into_builder(None)
            .add_current_schema(schema(3))
            .unwrap()
            .add_default_partition_spec(spec.build())
            .unwrap()
            .set_properties(HashMap::from([("new".to_owned(), "1".to_owned()), ("stays".to_owned(), "2".to_owned())]))
            .unwrap()
            .remove_properties(&["goes".to_owned()])
            .unwrap()
            .set_branch_snapshot(snapshot(2, Some(1), 2), "main")
            .unwrap()
            .set_ref("before", tag)
            .unwrap()
            .build()
            .unwrap()
            .metadata;
        let made = applied(&old, steps(&old, &new));
        assert_eq!(made.current_schema(), new.current_schema());
        assert_eq!(made.default_partition_spec(), new.default_partition_spec());
        assert_eq!(made.properties(), new.properties());
        assert_eq!(made.current_snapshot(), new.current_snapshot());
        assert_eq!(references(&made).unwrap(), references(&new).unwrap());
        assert!(steps(&made, &new).updates.is_empty());

        // Expiry: the first snapshot and its tag go.
        let expired = made.clone().into_builder(None).remove_ref("before").remove_snapshots(&[1]).build().unwrap().metadata;
        let left = applied(&made, steps(&made, &expired));
        assert_eq!(left.snapshots().len(), 1);
        assert!(left.snapshot_for_ref("before").is_none());
    }

    #[test]
    fn a_moved_branch_breaks_the_requirements() {
        let old = table();
        let ours = old.clone().into_builder(None).set_branch_snapshot(snapshot(7, None, 1), "main").unwrap();
        let steps = steps(&old, &ours.build().unwrap().metadata);
        let theirs = old.into_builder(None).set_branch_snapshot(snapshot(8, None, 1), "main").unwrap();
        let theirs = theirs.build().unwrap().metadata;
        assert!(steps.requirements.iter().any(|requirement| requirement.check(Some(&theirs)).is_err()));
    }
}
