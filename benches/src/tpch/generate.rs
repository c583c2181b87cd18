//! TPC-H data by tpchgen, as Parquet: `DIR/TABLE/part-N.parquet`, Snappy, plain Arrow types (text as UTF-8, money as decimal(15,2)).

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use arrow::array::RecordBatchReader;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator, RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow};

use super::TABLES;
use crate::Result;

/// Written last: a folder without it was not finished.
const MARKER: &str = "complete";
const ROW_GROUP_ROWS: usize = 500_000;

/// Makes the data of a scale in `dir`, unless it is there. True if it was made now.
///
/// # Errors
/// If the files cannot be written.
pub fn generate(dir: &Path, scale: f64) -> Result<bool> {
    if dir.join(MARKER).is_file() {
        return Ok(false);
    }
    if !(scale > 0.0 && scale <= 1000.0) {
        return Err(format!("scale {scale} is not between 0 and 1000"));
    }
    let failed = |e: std::io::Error| format!("cannot write {}: {e}", dir.display());
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // Made beside its place, so that two at once, or one that is cut short, leave nothing half done.
    let working = dir.with_extension(format!("making-{}", std::process::id()));
    let _cleared = std::fs::remove_dir_all(&working);
    let mut parts: Vec<(&str, i32, i32)> = Vec::new();
    for table in TABLES {
        std::fs::create_dir_all(working.join(table)).map_err(failed)?;
        let count = match table {
            "nation" | "region" => 1,
            "lineitem" | "orders" | "partsupp" => scale.ceil().max(2.0) as i32,
            _ => scale.ceil() as i32,
        };
        parts.extend((1..=count).map(|part| (table, part, count)));
    }
    parts.reverse();
    let queue = Mutex::new(parts);
    let outcome = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..crate::machine::cores())
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                        let Some((table, part, count)) = next else { return Ok(()) };
                        let rows = rows(table, scale, part, count)?;
                        write(&working.join(table).join(format!("part-{part}.parquet")), rows)?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a generator failed".to_owned())))
    });
    outcome?;
    std::fs::write(working.join(MARKER), format!("TPC-H scale {scale}\n")).map_err(failed)?;
    if let Err(error) = std::fs::rename(&working, dir) {
        let _removed = std::fs::remove_dir_all(&working);
        // Somebody else was quicker, which is as good.
        if !dir.join(MARKER).is_file() {
            return Err(failed(error));
        }
    }
    Ok(true)
}

type Rows = Box<dyn RecordBatchReader + Send>;

fn rows(table: &str, scale: f64, part: i32, parts: i32) -> Result<Rows> {
    Ok(match table {
        "lineitem" => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, part, parts))),
        "orders" => Box::new(OrderArrow::new(OrderGenerator::new(scale, part, parts))),
        "partsupp" => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, part, parts))),
        "customer" => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, part, parts))),
        "part" => Box::new(PartArrow::new(PartGenerator::new(scale, part, parts))),
        "supplier" => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, part, parts))),
        "nation" => Box::new(NationArrow::new(NationGenerator::new(scale, part, parts))),
        "region" => Box::new(RegionArrow::new(RegionGenerator::new(scale, part, parts))),
        other => return Err(format!("TPC-H has no table {other}")),
    })
}

fn write(path: &Path, rows: Rows) -> Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).set_max_row_group_row_count(Some(ROW_GROUP_ROWS)).build();
    // Without the Arrow schema in it every reader takes the text as plain UTF-8, not as the generator's views.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
    let file = File::create(path).map_err(|e| failed(&e))?;
    let mut writer = ArrowWriter::try_new_with_options(file, rows.schema(), options).map_err(|e| failed(&e))?;
    for batch in rows {
        let batch = batch.map_err(|e| failed(&e))?;
        writer.write(&batch).map_err(|e| failed(&e))?;
    }
    writer.close().map(|_| ()).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_small_scale_has_its_rows() {
        let dir = std::env::temp_dir().join(format!("ca-tpch-{}", std::process::id()));
        assert!(generate(&dir, 0.01).unwrap());
        assert!(!generate(&dir, 0.01).unwrap());
        let rows = |table: &str| -> i64 {
            std::fs::read_dir(dir.join(table))
                .unwrap()
                .map(|f| {
                    let file = File::open(f.unwrap().path()).unwrap();
                    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
                    reader.metadata().file_metadata().num_rows()
                })
                .sum()
        };
        assert_eq!((rows("lineitem"), rows("orders"), rows("nation"), rows("region")), (60_175, 15_000, 25, 5));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
