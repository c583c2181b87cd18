//! Prints a stream of record batches with bounded memory: a table's column widths come from its first rows, everything after is written as it comes.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chainalytics_common::Error;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt as _;

use crate::error::{CliError, CliResult};
use crate::output::{self, Format, csv_field, width};

/// Rows looked at before a table's column widths are settled.
const SAMPLE_ROWS: usize = 1000;
/// Characters of one table cell; the rest is cut. JSON and CSV are never cut.
const CELL_WIDTH_MAX: usize = 120;

/// Prints all rows; how many there were.
pub async fn print(mut rows: SendableRecordBatchStream, format: Format) -> CliResult<u64> {
    let mut printer = Printer::new(rows.schema(), format)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(Error::from_datafusion)?;
        printer.write(&batch)?;
    }
    printer.finish()
}

enum Printer {
    Table(Table),
    /// The answer of EXPLAIN: texts of many lines, which no table would hold.
    Plans {
        rows: u64,
    },
    Csv {
        rows: u64,
    },
    Json {
        rows: u64,
    },
}

impl Printer {
    fn new(schema: SchemaRef, format: Format) -> CliResult<Self> {
        Ok(match format {
            Format::Table if is_plans(&schema) => Self::Plans { rows: 0 },
            Format::Table => Self::Table(Table::new(&schema)),
            Format::Json => Self::Json { rows: 0 },
            Format::Csv => {
                let names: Vec<_> = schema.fields().iter().map(|f| csv_field(f.name())).collect();
                output::line(&names.join(","))?;
                Self::Csv { rows: 0 }
            }
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> CliResult<()> {
        match self {
            Self::Table(table) => table.write(batch),
            Self::Plans { rows } => {
                *rows += batch.num_rows() as u64;
                output::text(&plans(batch)?)
            }
            Self::Csv { rows } => {
                *rows += batch.num_rows() as u64;
                output::text(&csv(batch)?)
            }
            Self::Json { rows } => {
                *rows += batch.num_rows() as u64;
                output::text(&json_lines(batch)?)
            }
        }
    }

    fn finish(self) -> CliResult<u64> {
        match self {
            Self::Table(table) => table.finish(),
            Self::Plans { rows } | Self::Csv { rows } | Self::Json { rows } => Ok(rows),
        }
    }
}

fn is_plans(schema: &SchemaRef) -> bool {
    schema.fields().iter().map(|field| field.name().as_str()).eq(["plan_type", "plan"])
}

/// Each plan below its name, as Spark prints them.
fn plans(batch: &RecordBatch) -> CliResult<String> {
    let options = FormatOptions::default();
    let columns = formatters(batch.columns(), &options)?;
    let mut out = String::new();
    for row in 0..batch.num_rows() {
        let (name, plan) = (cell(&columns[0], row)?, cell(&columns[1], row)?);
        out.push_str(&format!("== {name} ==\n{}\n\n", plan.trim_end()));
    }
    Ok(out)
}

/// One object a line; a null is a null, not a missing name.
fn json_lines(batch: &RecordBatch) -> CliResult<String> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|e| CliError::internal(format!("cannot print as JSON: {e}")))?;
    String::from_utf8(writer.into_inner()).map_err(|e| CliError::internal(format!("cannot print as JSON: {e}")))
}

/// A null is an empty field, an empty text a quoted one.
fn csv(batch: &RecordBatch) -> CliResult<String> {
    let options = FormatOptions::default();
    let columns = formatters(batch.columns(), &options)?;
    let mut out = String::new();
    for row in 0..batch.num_rows() {
        for (i, (array, formatter)) in batch.columns().iter().zip(&columns).enumerate() {
            if i > 0 {
                out.push(',');
            }
            if array.is_valid(row) {
                let text = cell(formatter, row)?;
                out.push_str(&if text.is_empty() { "\"\"".to_owned() } else { csv_field(&text) });
            }
        }
        out.push('\n');
    }
    Ok(out)
}

fn formatters<'a>(columns: &'a [ArrayRef], options: &'a FormatOptions<'a>) -> CliResult<Vec<ArrayFormatter<'a>>> {
    columns.iter().map(|c| ArrayFormatter::try_new(c.as_ref(), options)).collect::<Result<_, _>>().map_err(unprintable)
}

fn cell(formatter: &ArrayFormatter<'_>, row: usize) -> CliResult<String> {
    formatter.value(row).try_to_string().map_err(unprintable)
}

fn unprintable(error: arrow::error::ArrowError) -> CliError {
    CliError::internal(format!("cannot print a value: {error}"))
}

struct Table {
    names: Vec<String>,
    right: Vec<bool>,
    /// Rows kept back until the widths are settled.
    sample: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
    rows: u64,
}

impl Table {
    fn new(schema: &SchemaRef) -> Self {
        Self {
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            right: schema.fields().iter().map(|f| is_number(f.data_type())).collect(),
            sample: Vec::new(),
            widths: None,
            rows: 0,
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> CliResult<()> {
        let options = FormatOptions::default().with_null("NULL");
        let columns = formatters(batch.columns(), &options)?;
        let mut out = String::new();
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|f| cell(f, row).map(|text| one_line(&text))).collect::<CliResult<Vec<_>>>()?;
            match &self.widths {
                Some(widths) => line(&mut out, &cells, widths, &self.right),
                None => {
                    self.sample.push(cells);
                    if self.sample.len() >= SAMPLE_ROWS {
                        self.settle(&mut out);
                    }
                }
            }
        }
        self.rows += batch.num_rows() as u64;
        output::text(&out)
    }

    /// Settles the widths and writes what was kept back.
    fn settle(&mut self, out: &mut String) {
        let sample = std::mem::take(&mut self.sample);
        let widths: Vec<usize> =
            (0..self.names.len()).map(|i| sample.iter().map(|row| width(&row[i])).chain([width(&self.names[i])]).max().unwrap_or(0)).collect();
        rule(out, &widths);
        line(out, &self.names, &widths, &vec![false; widths.len()]);
        rule(out, &widths);
        for cells in &sample {
            line(out, cells, &widths, &self.right);
        }
        self.widths = Some(widths);
    }

    fn finish(mut self) -> CliResult<u64> {
        // A result without columns (DDL) has nothing to show.
        if self.names.is_empty() {
            return Ok(self.rows);
        }
        let mut out = String::new();
        if self.widths.is_none() {
            self.settle(&mut out);
        }
        if let Some(widths) = &self.widths {
            rule(&mut out, widths);
        }
        output::text(&out)?;
        Ok(self.rows)
    }
}

fn rule(out: &mut String, widths: &[usize]) {
    for width in widths {
        out.push('+');
        out.extend(std::iter::repeat_n('-', width + 2));
    }
    out.push_str("+\n");
}

fn line(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    for (i, cell) in cells.iter().enumerate() {
        let pad = " ".repeat(widths[i].saturating_sub(width(cell)));
        let (before, after) = if right[i] { (pad.as_str(), "") } else { ("", pad.as_str()) };
        out.push_str("| ");
        out.push_str(before);
        out.push_str(cell);
        out.push_str(after);
        out.push(' ');
    }
    out.push_str("|\n");
}

/// Line breaks would tear the table apart, and one huge cell would bury it.
fn one_line(text: &str) -> String {
    let flat = text.replace("\r\n", "⏎").replace(['\n', '\r'], "⏎");
    if width(&flat) <= CELL_WIDTH_MAX {
        return flat;
    }
    flat.chars().take(CELL_WIDTH_MAX - 1).chain(['…']).collect()
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(300)]));
        let t: ArrayRef = Arc::new(StringArray::from(vec![Some("a,\"b\""), Some(""), None]));
        RecordBatch::try_from_iter_with_nullable([("n", n, true), ("t", t, true)]).unwrap()
    }

    #[test]
    fn json_keeps_nulls() {
        let text = json_lines(&batch()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [r#"{"n":1,"t":"a,\"b\""}"#, r#"{"n":null,"t":""}"#, r#"{"n":300,"t":null}"#]);
    }

    #[test]
    fn csv_tells_null_from_empty() {
        assert_eq!(csv(&batch()).unwrap(), "1,\"a,\"\"b\"\"\"\n,\"\"\n300,\n");
    }

    #[test]
    fn plans_keep_their_lines() {
        let kind: ArrayRef = Arc::new(StringArray::from(vec!["physical_plan"]));
        let plan: ArrayRef = Arc::new(StringArray::from(vec!["FilterExec: a > 1\n  DataSourceExec\n"]));
        let batch = RecordBatch::try_from_iter([("plan_type", kind), ("plan", plan)]).unwrap();
        assert!(is_plans(&batch.schema()));
        assert_eq!(plans(&batch).unwrap(), "== physical_plan ==\nFilterExec: a > 1\n  DataSourceExec\n\n");
    }

    #[test]
    fn tables_settle_their_widths() {
        let mut table = Table::new(&batch().schema());
        table.write(&batch()).unwrap();
        let mut out = String::new();
        table.settle(&mut out);
        assert_eq!(out, "+------+-------+\n| n    | t     |\n+------+-------+\n|    1 | a,\"b\" |\n| NULL |       |\n|  300 | NULL  |\n");
    }

    #[test]
    fn cells_are_one_bounded_line() {
        assert_eq!(one_line("a\nb"), "a⏎b");
        assert_eq!(width(&one_line(&"x".repeat(500))), CELL_WIDTH_MAX);
    }
}
