//! Where results go: one JSON object a line in `benches/results`, and a table between markers in `benches/README.md`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Result;

/// The folder `benches` of the checkout that one stands in; else of the one that this was built from.
#[must_use]
pub fn folder() -> PathBuf {
    let here = PathBuf::from("benches");
    if here.join("tpch/queries/q01.sql").is_file() { here } else { PathBuf::from(env!("CARGO_MANIFEST_DIR")) }
}

/// Now, as written into results.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Appends a line to `results/NAME.jsonl`.
///
/// # Errors
/// If it cannot be written.
pub fn append(name: &str, line: &Value) -> Result<()> {
    let dir = folder().join("results");
    let path = dir.join(format!("{name}.jsonl"));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&dir)?;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{line}")
    };
    write().map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Puts `body` between the markers of `section` in the README, at its end if there are none.
///
/// # Errors
/// If the file cannot be read or written.
pub fn publish(section: &str, body: &str) -> Result<()> {
    let path = folder().join("README.md");
    let text = read(&path)?;
    std::fs::write(&path, replaced(&text, section, body)).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

fn replaced(text: &str, section: &str, body: &str) -> String {
    let (begin, end) = (format!("<!-- {section}: begin -->"), format!("<!-- {section}: end -->"));
    let block = format!("{begin}\n{}\n{end}", body.trim_end());
    match (text.find(&begin), text.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{block}{}", &text[..from], &text[to + end.len()..]),
        _ => format!("{}\n\n{block}\n", text.trim_end()),
    }
}

/// `a / b`, or a dash where a side did not run.
#[must_use]
pub fn ratio(a: Option<f64>, b: Option<f64>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
        _ => "-".to_owned(),
    }
}

/// Geometric mean; `None` of nothing.
#[must_use]
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_section_is_replaced_in_place() {
        let first = replaced("# Title\n", "a", "one");
        assert_eq!(first, "# Title\n\n<!-- a: begin -->\none\n<!-- a: end -->\n");
        let both = replaced(&first, "b", "two");
        let again = replaced(&both, "a", "three");
        assert!(again.contains("three") && again.contains("two") && !again.contains("one"), "{again}");
        assert!(again.find("three") < again.find("two"));
    }

    #[test]
    fn means_and_ratios() {
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[1.0, 4.0]).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(ratio(Some(1.0), None), "-");
        assert_eq!(ratio(Some(3.0), Some(2.0)), "1.50");
    }
}
