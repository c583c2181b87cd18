//! `chainalytics config`: the effective configuration, and what each key means.

use std::collections::BTreeMap;

use chainalytics_common::keys;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, CliResult};
use crate::output::{self, Format, Rows};
use crate::suggest::nearest;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  chainalytics config show --output json\n  chainalytics config docs > docs/configuration.md")]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with its effective value and where it came from; secrets are hidden
    #[command(after_help = "Example:\n  chainalytics config show --conf query.adaptive=false --output json")]
    Show {
        /// Only keys that begin with this
        #[arg(value_name = "PREFIX")]
        prefix: Option<String>,
    },
    /// Print the documentation of all keys as Markdown; with --output json one key a line
    #[command(after_help = "Examples:\n  chainalytics config docs > docs/configuration.md\n  chainalytics config docs --output json | jq -r .key")]
    Docs,
}

pub fn run(context: &Context, args: &ConfigArgs) -> CliResult<()> {
    let ConfigCommand::Show { prefix } = &args.command else { return docs(context.format()) };
    let prefix = prefix.as_deref().unwrap_or_default();
    let entries: Vec<_> = context.config().entries().into_iter().filter(|e| e.key.starts_with(prefix)).collect();
    if entries.is_empty() {
        let known: Vec<&str> = keys::ALL.iter().map(|key| key.name).collect();
        let hint = nearest(prefix, &known).map(|key| format!("; did you mean '{key}'?")).unwrap_or_default();
        return Err(CliError::usage(format!("no configuration key begins with '{prefix}'{hint}")));
    }
    let entries = entries.into_iter();
    if context.format() == Format::Json {
        let map: BTreeMap<_, _> = entries.map(|e| (e.key, json!({ "value": e.value, "source": e.source }))).collect();
        return output::json(&map);
    }
    let mut rows = Rows::new(&["key", "value", "source"]);
    for entry in entries {
        rows.push(vec![json!(entry.key), json!(entry.value), json!(entry.source.to_string())]);
    }
    rows.print(context.format())
}

/// Needs no configuration, so that a broken one can be mended with its help.
pub fn docs(format: Format) -> CliResult<()> {
    if format == Format::Table {
        return output::text(&markdown());
    }
    let mut rows = Rows::new(&["key", "type", "default", "secret", "meaning"]);
    for key in keys::ALL {
        rows.push(vec![json!(key.name), json!(key.kind.describe()), json!(key.default), json!(key.secret), json!(key.doc)]);
    }
    rows.print(format)
}

fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Values are taken, each winning over the one before, from: the defaults below, `chainalytics.toml` (or `--config FILE`), environment variables \
         (`scheduler.http-port` is `CHAINALYTICS_SCHEDULER_HTTP_PORT`), flags, `--conf key=value`. Unknown keys are refused.\n\n\
         | key | type | default | meaning |\n|---|---|---|---|\n",
    );
    for key in keys::ALL {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let secret = if key.secret { " (secret)" } else { "" };
        out.push_str(&format!("| `{}` | {}{secret} | {default} | {} |\n", key.name, key.kind.describe(), key.doc.replace('|', "\\|")));
    }
    let passed: Vec<String> = keys::PASSED_ON.iter().map(|prefix| format!("`{prefix}*`")).collect();
    out.push_str(&format!("\nKeys that begin with {} are passed on to the library of that name as they are.\n", passed.join(", ")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        let text = markdown();
        for key in keys::ALL {
            assert!(text.contains(&format!("| `{}` |", key.name)), "{}", key.name);
        }
    }
}
