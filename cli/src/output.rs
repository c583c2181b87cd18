//! The only place that writes to stdout. Results go to stdout, everything meant for a person's eyes meanwhile to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::error::{CliError, CliResult};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// One JSON object per line, or one for the whole result.
    Json,
    /// Comma-separated values with a header line.
    Csv,
}

/// Writes text to stdout as it is.
pub fn text(text: &str) -> CliResult<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::from_stdout)
}

/// Writes one line to stdout.
pub fn line(line: &str) -> CliResult<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::from_stdout)
}

/// Writes one JSON value as one line to stdout.
pub fn json<T: Serialize>(value: &T) -> CliResult<()> {
    let text = serde_json::to_string(value).map_err(|e| CliError::internal(format!("cannot print as JSON: {e}")))?;
    line(&text)
}

/// One line to stderr. A closed stderr is nobody's error.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether stderr is a terminal, so that a bar may be drawn over and over.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdin is a terminal, so that a prompt makes sense.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Small results: rows known as a whole.
pub struct Rows {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    pub fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.headers.len());
        self.rows.push(row);
    }

    pub fn print(&self, format: Format) -> CliResult<()> {
        match format {
            Format::Table => text(&self.table()),
            Format::Json => self.rows.iter().try_for_each(|row| {
                let object: serde_json::Map<_, _> = self.headers.iter().map(|h| (*h).to_owned()).zip(row.iter().cloned()).collect();
                json(&object)
            }),
            Format::Csv => {
                line(&self.headers.iter().map(|h| csv_field(h)).collect::<Vec<_>>().join(","))?;
                self.rows.iter().try_for_each(|row| line(&row.iter().map(|v| csv_field(&plain(v))).collect::<Vec<_>>().join(",")))
            }
        }
    }

    /// Aligned columns, numbers to the right, two blanks between columns.
    pub fn table(&self) -> String {
        let cells: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
        let headers: Vec<String> = self.headers.iter().map(|h| h.to_uppercase().replace('_', " ")).collect();
        let right: Vec<bool> =
            (0..headers.len()).map(|i| !self.rows.is_empty() && self.rows.iter().all(|row| row[i].is_number() || row[i].is_null())).collect();
        let widths: Vec<usize> =
            (0..headers.len()).map(|i| cells.iter().map(|row| width(&row[i])).chain([width(&headers[i])]).max().unwrap_or(0)).collect();
        let mut out = String::new();
        for row in std::iter::once(&headers).chain(&cells) {
            let mut text = String::new();
            for (i, cell) in row.iter().enumerate() {
                if i > 0 {
                    text.push_str("  ");
                }
                let pad = " ".repeat(widths[i] - width(cell));
                if right[i] {
                    text.push_str(&pad);
                    text.push_str(cell);
                } else {
                    text.push_str(cell);
                    text.push_str(&pad);
                }
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Columns that a text takes: characters, which is right for everything but wide scripts.
pub fn width(text: &str) -> usize {
    text.chars().count()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Quotes a CSV field where RFC 4180 asks for it.
pub fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A point in time, RFC 3339 in UTC; nothing for 0.
pub fn timestamp(at_ms: i64) -> Value {
    if at_ms <= 0 {
        return Value::Null;
    }
    chrono::DateTime::from_timestamp_millis(at_ms).map_or(Value::Null, |t| Value::String(t.format("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_align() {
        let mut rows = Rows::new(&["name", "row_count"]);
        rows.push(vec![json!("bronze"), json!(12)]);
        rows.push(vec![json!("é"), json!(3)]);
        assert_eq!(rows.table(), "NAME    ROW COUNT\nbronze         12\né               3\n");
    }

    #[test]
    fn csv_quotes_what_must_be_quoted() {
        assert_eq!(csv_field("plain"), "plain");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
