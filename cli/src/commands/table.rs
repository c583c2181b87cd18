//! `chainalytics table`: what is in a table, and keeping it in shape. Thin over SQL: metadata tables and stored procedures, so that a job, the
//! prompt and this command do the same.

use chainalytics_client::Session;
use chainalytics_common::{Error, ErrorCode};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::context::Context;
use crate::error::CliResult;
use crate::output::{Rows, timestamp};
use crate::sql::run::Runner;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  chainalytics table list\n  chainalytics table compact silver_user_events --option min-input-files=2\n  \
                        chainalytics table expire bronze_user_events --older-than 7d --retain-last 10\n  \
                        chainalytics table remove-orphans bronze_user_events            lists them; --delete deletes them")]
pub struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    /// List tables
    #[command(after_help = "Example:\n  chainalytics table list --namespace chainalytics")]
    List {
        /// Namespace to list [default: catalog.namespace]
        #[arg(long, value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// Show one table: location, size, partitioning, properties, columns
    #[command(after_help = "Example:\n  chainalytics table show silver_user_events")]
    Show(Name),
    /// List the snapshots of a table
    #[command(after_help = "Example:\n  chainalytics table snapshots silver_user_events --output json")]
    Snapshots(Name),
    /// List what was current when
    #[command(after_help = "Example:\n  chainalytics table history silver_user_events")]
    History(Name),
    /// List data and delete files of the current snapshot
    #[command(after_help = "Example:\n  chainalytics table files silver_user_events --output csv")]
    Files(Name),
    /// List manifests of the current snapshot
    #[command(after_help = "Example:\n  chainalytics table manifests silver_user_events")]
    Manifests(Name),
    /// List partitions with their rows, files and bytes
    #[command(after_help = "Example:\n  chainalytics table partitions silver_user_events")]
    Partitions(Name),
    /// List branches and tags
    #[command(after_help = "Example:\n  chainalytics table refs silver_user_events")]
    Refs(Name),
    /// Expire old snapshots and delete the files that only they reach
    #[command(after_help = "Example:\n  chainalytics table expire bronze_user_events --older-than 7d --retain-last 10")]
    Expire {
        #[command(flatten)]
        table: Name,
        /// Snapshots before this time: '2026-01-31 12:00:00' or an age such as 7d, 12h, 30m [default: the table's history.expire.*]
        #[arg(long, value_name = "TIME")]
        older_than: Option<String>,
        /// Snapshots that every branch keeps whatever their age
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        retain_last: Option<u32>,
        /// This snapshot whatever its age; may be repeated
        #[arg(long, value_name = "ID")]
        snapshot_id: Vec<i64>,
        /// Also drop schemas and partition specs that no snapshot uses
        #[arg(long)]
        clean_metadata: bool,
    },
    /// Rewrite small files into large ones
    #[command(after_help = "Examples:\n  chainalytics table compact silver_user_events --where \"event_date >= DATE '2026-01-01'\"\n  \
                            chainalytics table compact silver_user_events --sort 'customer_id, event_timestamp DESC' --option rewrite-all=true")]
    Compact {
        #[command(flatten)]
        table: Name,
        /// Only files that may hold rows of this condition
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
        /// Order rows by these columns within each group of files
        #[arg(long, value_name = "COLUMNS")]
        sort: Option<String>,
        /// An option of rewrite_data_files, such as target-file-size-bytes=134217728; may be repeated
        #[arg(long = "option", value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Rewrite small manifests into large ones, sorted by partition
    #[command(after_help = "Example:\n  chainalytics table rewrite-manifests silver_user_events")]
    RewriteManifests(Name),
    /// Make an earlier snapshot current
    #[command(after_help = "Example:\n  chainalytics table rollback silver_user_events --to-timestamp '2026-01-31 12:00:00'")]
    Rollback {
        #[command(flatten)]
        table: Name,
        /// This ancestor of the current snapshot
        #[arg(long, value_name = "ID", conflicts_with_all = ["to_timestamp", "to_ref"], required_unless_present_any = ["to_timestamp", "to_ref"])]
        to_snapshot: Option<i64>,
        /// The newest ancestor before this time, or this age (2h)
        #[arg(long, value_name = "TIME", conflicts_with = "to_ref")]
        to_timestamp: Option<String>,
        /// Where this branch or tag points
        #[arg(long, value_name = "REF")]
        to_ref: Option<String>,
    },
    /// Find files that no version of the table refers to, and delete them with --delete
    #[command(after_help = "Examples:\n  chainalytics table remove-orphans bronze_user_events\n  \
                            chainalytics table remove-orphans bronze_user_events --older-than 2d --delete")]
    RemoveOrphans {
        #[command(flatten)]
        table: Name,
        /// Files last modified before this time or age [default: 3d]
        #[arg(long, value_name = "TIME")]
        older_than: Option<String>,
        /// Search this folder [default: the table's location]
        #[arg(long, value_name = "URI")]
        location: Option<String>,
        /// Delete what is found
        #[arg(long)]
        delete: bool,
        /// Delete files younger than a day, too: only when nobody writes
        #[arg(long, requires = "delete")]
        force: bool,
    },
    /// Compact, rewrite manifests and expire by the table's chainalytics.maintenance.* properties
    #[command(after_help = "Example:\n  chainalytics table maintain bronze_user_events")]
    Maintain(Name),
}

#[derive(Debug, Args)]
struct Name {
    /// TABLE or NAMESPACE.TABLE
    #[arg(value_name = "TABLE")]
    table: String,
}

pub async fn run(context: &Context, args: TableArgs) -> CliResult<()> {
    let session = Session::connect(context.config(), context.master()?).await?;
    if let TableCommand::Show(name) = &args.command {
        let shown = show(context, &session, &name.table).await;
        session.close().await;
        return shown;
    }
    let sql = statement(&args.command)?;
    let mut runner = Runner::new(session, context.format(), !context.quiet());
    let done = runner.statement(&sql).await;
    runner.close().await;
    done
}

fn statement(command: &TableCommand) -> CliResult<String> {
    let metadata = |name: &Name, kind: &str, columns: &str| {
        let name = quoted_name(&name.table)?;
        Ok(format!("SELECT {columns} FROM {}", name.metadata(kind)))
    };
    match command {
        TableCommand::List { namespace: None } => Ok("SHOW TABLES".to_owned()),
        TableCommand::List { namespace: Some(namespace) } => Ok(format!("SHOW TABLES IN {}", quoted_name(namespace)?.joined())),
        // Shown by hand.
        TableCommand::Show(_) => Ok(String::new()),
        TableCommand::Snapshots(name) => metadata(name, "snapshots", "*").map(|sql| format!("{sql} ORDER BY committed_at")),
        TableCommand::History(name) => metadata(name, "history", "*"),
        TableCommand::Files(name) => metadata(name, "files", "content, file_path, file_format, spec_id, record_count, file_size_in_bytes"),
        TableCommand::Manifests(name) => metadata(name, "manifests", "*"),
        TableCommand::Partitions(name) => metadata(name, "partitions", "*"),
        TableCommand::Refs(name) => metadata(name, "refs", "*"),
        TableCommand::Expire { table, older_than, retain_last, snapshot_id, clean_metadata } => {
            let mut call = Call::new("expire_snapshots", table);
            call.time("older_than", older_than.as_deref())?;
            call.literal("retain_last", retain_last.map(|n| n.to_string()));
            let ids: Vec<String> = snapshot_id.iter().map(ToString::to_string).collect();
            call.literal("snapshot_ids", (!ids.is_empty()).then(|| format!("array({})", ids.join(", "))));
            call.literal("clean_expired_metadata", clean_metadata.then(|| "true".to_owned()));
            Ok(call.sql())
        }
        TableCommand::Compact { table, condition, sort, options } => {
            let mut call = Call::new("rewrite_data_files", table);
            call.text("where", condition.as_deref());
            call.literal("strategy", sort.as_ref().map(|_| "'sort'".to_owned()));
            call.text("sort_order", sort.as_deref());
            let mut pairs = Vec::new();
            for option in options {
                let (key, value) = option
                    .split_once('=')
                    .ok_or_else(|| Error::new(ErrorCode::InvalidArgument, format!("--option {option}: it must be KEY=VALUE")))?;
                pairs.push(format!("{}, {}", literal(key.trim()), literal(value)));
            }
            call.literal("options", (!pairs.is_empty()).then(|| format!("map({})", pairs.join(", "))));
            Ok(call.sql())
        }
        TableCommand::RewriteManifests(table) => Ok(Call::new("rewrite_manifests", table).sql()),
        TableCommand::Rollback { table, to_snapshot, to_timestamp, to_ref } => match (to_snapshot, to_timestamp, to_ref) {
            (Some(id), _, _) => {
                let mut call = Call::new("rollback_to_snapshot", table);
                call.literal("snapshot_id", Some(id.to_string()));
                Ok(call.sql())
            }
            (_, Some(time), _) => {
                let mut call = Call::new("rollback_to_timestamp", table);
                call.time("timestamp", Some(time))?;
                Ok(call.sql())
            }
            (_, _, name) => {
                let mut call = Call::new("set_current_snapshot", table);
                call.text("ref", name.as_deref());
                Ok(call.sql())
            }
        },
        TableCommand::RemoveOrphans { table, older_than, location, delete, force } => {
            let mut call = Call::new("remove_orphan_files", table);
            call.time("older_than", older_than.as_deref())?;
            call.text("location", location.as_deref());
            call.literal("dry_run", Some((!delete).to_string()));
            call.literal("force", force.then(|| "true".to_owned()));
            Ok(call.sql())
        }
        TableCommand::Maintain(table) => Ok(Call::new("maintain", table).sql()),
    }
}

async fn show(context: &Context, session: &Session, name: &str) -> CliResult<()> {
    let ident = session.lakehouse().ident(name)?;
    let table = chainalytics_lakehouse::sql::load_table(session.lakehouse(), &ident).await?;
    let mut rows = Rows::new(&["field", "value"]);
    let mut field = |name: &str, value: serde_json::Value| rows.push(vec![json!(name), value]);
    field("table", json!(table.ident().to_string()));
    field("location", json!(table.location()));
    field("metadata file", json!(table.metadata_location()));
    field("uuid", json!(table.uuid().to_string()));
    field("format version", json!(table.format_version().to_string()));
    if let Some(snapshot) = table.current_snapshot() {
        field("current snapshot", json!(snapshot.snapshot_id.to_string()));
        field("committed at", timestamp(snapshot.timestamp_ms));
        for key in ["total-records", "total-data-files", "total-files-size", "total-delete-files"] {
            if let Some(value) = snapshot.summary.get(key) {
                field(&key.replace('-', " "), json!(value));
            }
        }
    }
    field("snapshots", json!(table.snapshots().len().to_string()));
    let partition: Vec<String> = table.partition_fields().iter().map(|f| format!("{}({})", f.transform, f.source)).collect();
    field("partitioned by", json!(partition.join(", ")));
    for column in table.schema().fields() {
        let null = if column.is_nullable() { "" } else { " NOT NULL" };
        field("column", json!(format!("{} {}{null}", column.name(), column.data_type())));
    }
    let mut properties: Vec<_> = table.properties().iter().collect();
    properties.sort();
    for (key, value) in properties {
        field("property", json!(format!("{key}={value}")));
    }
    rows.print(context.format())
}

/// A CALL with named arguments.
struct Call {
    procedure: &'static str,
    arguments: Vec<String>,
}

impl Call {
    fn new(procedure: &'static str, table: &Name) -> Self {
        Self { procedure, arguments: vec![format!("table => {}", literal(&table.table))] }
    }

    fn literal(&mut self, name: &str, value: Option<String>) {
        self.arguments.extend(value.map(|value| format!("{name} => {value}")));
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        self.literal(name, value.map(literal));
    }

    fn time(&mut self, name: &str, value: Option<&str>) -> CliResult<()> {
        let Some(value) = value else { return Ok(()) };
        let value = match age_ms(value) {
            Some(age) => chrono::Utc::now().timestamp_millis().saturating_sub(age).to_string(),
            None => literal(value),
        };
        self.literal(name, Some(value));
        Ok(())
    }

    fn sql(self) -> String {
        format!("CALL system.{}({})", self.procedure, self.arguments.join(", "))
    }
}

/// `7d`, `12h`, `30m`, `45s` in milliseconds; `None` for anything else.
fn age_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let unit = text.chars().last()?;
    let number: i64 = text[..text.len() - unit.len_utf8()].trim().parse().ok()?;
    let ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        'w' => 604_800_000,
        _ => return None,
    };
    number.checked_mul(ms).filter(|age| *age >= 0)
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name's parts.
struct QuotedName(Vec<String>);

impl QuotedName {
    fn joined(&self) -> String {
        self.0.join(".")
    }

    /// The metadata table of that kind: `ns."t$files"`.
    fn metadata(&self, kind: &str) -> String {
        let mut parts = self.0.clone();
        if let Some(last) = parts.last_mut() {
            *last = format!("\"{}${kind}\"", last.trim_matches('"'));
        }
        parts.join(".")
    }
}

fn quoted_name(text: &str) -> CliResult<QuotedName> {
    let parts: Vec<&str> = text.split('.').map(|part| part.trim().trim_matches(['"', '`'])).collect();
    if parts.iter().any(|part| part.is_empty() || part.contains('"')) {
        return Err(Error::new(ErrorCode::InvalidArgument, format!("'{text}' is not the name of a table")).into());
    }
    Ok(QuotedName(parts.into_iter().map(|part| format!("\"{part}\"")).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn commands_become_calls() {
        let table = Name { table: "ns.it's".to_owned() };
        let command = TableCommand::Expire { table, older_than: None, retain_last: Some(3), snapshot_id: vec![1, 2], clean_metadata: true };
        assert_eq!(
            statement(&command).unwrap(),
            "CALL system.expire_snapshots(table => 'ns.it''s', retain_last => 3, snapshot_ids => array(1, 2), clean_expired_metadata => true)"
        );
        let files = TableCommand::Files(Name { table: "ns.t".to_owned() });
        assert!(statement(&files).unwrap().ends_with("FROM \"ns\".\"t$files\""));
        assert!(statement(&TableCommand::Files(Name { table: "ns.".to_owned() })).is_err());
    }

    #[test]
    fn ages_have_units() {
        assert_eq!(age_ms("7d"), Some(604_800_000));
        assert_eq!(age_ms("90 s"), Some(90_000));
        assert_eq!(age_ms("2026-01-31"), None);
    }
}
