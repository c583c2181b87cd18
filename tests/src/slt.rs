//! Reader of test files in the format of sqllogictest: `statement ok|error [text]`, `query TYPES [rowsort]` with the expected rows after `----`.
//!
//! The crate of that name is not used: it turns on features of `rand` and `md-5` that the product does not have, and with them cargo would build
//! DataFusion a second time for the tests.

/// One entry of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Line of its head, from 1.
    pub line: usize,
    pub expect: Expect,
    pub sql: String,
}

/// What a statement should give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    Ok,
    /// An error whose text has these parts in this order (`.*` between them in the file).
    Error(Vec<String>),
    /// Rows, values separated by spaces; sorted on both sides if `sort`.
    Rows {
        rows: Vec<String>,
        sort: bool,
    },
}

/// Reads a file.
///
/// # Errors
/// A head that is none, with its line.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, head)) = lines.next() {
        let line = index + 1;
        if head.trim().is_empty() || head.starts_with('#') {
            continue;
        }
        let mut body = Vec::new();
        while let Some((_, next)) = lines.next_if(|(_, next)| !next.trim().is_empty()) {
            body.push(next);
        }
        let words: Vec<&str> = head.split_whitespace().collect();
        let (sql, expect) = match words.as_slice() {
            ["statement", "ok"] => (body.join("\n"), Expect::Ok),
            ["statement", "error", ..] => {
                let pattern = head.trim_start_matches("statement").trim_start().trim_start_matches("error").trim();
                (body.join("\n"), Expect::Error(pattern.split(".*").map(str::to_owned).collect()))
            }
            ["query", _types, modes @ ..] if modes.iter().all(|m| ["rowsort", "nosort"].contains(m)) => {
                let split = body.iter().position(|l| *l == "----").ok_or_else(|| format!("line {line}: a query without ----"))?;
                let rows = body[split + 1..].iter().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
                (body[..split].join("\n"), Expect::Rows { rows, sort: modes.contains(&"rowsort") })
            }
            _ => return Err(format!("line {line}: not a head of sqllogictest: {head}")),
        };
        records.push(Record { line, expect, sql });
    }
    Ok(records)
}

impl Record {
    /// Compares what came with what should have come; the difference in words.
    ///
    /// # Errors
    /// The difference.
    pub fn check(&self, outcome: Result<Vec<Vec<String>>, String>) -> Result<(), String> {
        match (&self.expect, outcome) {
            (Expect::Ok, Ok(_)) => Ok(()),
            (Expect::Ok | Expect::Rows { .. }, Err(error)) => Err(format!("failed: {error}")),
            (Expect::Error(_), Ok(_)) => Err("should have failed".to_owned()),
            (Expect::Error(parts), Err(error)) => {
                let mut rest = error.as_str();
                for part in parts {
                    let Some(at) = rest.find(part.as_str()) else { return Err(format!("another error than {parts:?}: {error}")) };
                    rest = &rest[at + part.len()..];
                }
                Ok(())
            }
            (Expect::Rows { rows, sort }, Ok(came)) => {
                // A value with spaces in it compares as if it were several.
                let text = |row: &Vec<String>| row.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
                let (mut wanted, mut came) = (rows.clone(), came.iter().map(text).collect::<Vec<_>>());
                if *sort {
                    wanted.sort();
                    came.sort();
                }
                if wanted == came { Ok(()) } else { Err(format!("wanted\n  {}\ncame\n  {}", wanted.join("\n  "), came.join("\n  "))) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_is_read_and_compared() {
        let text = "# note\n\nstatement ok\nCREATE TABLE t\n(a INT)\n\nstatement error CA-X.*column\nSELECT b\n\nquery IT rowsort\nSELECT 1\n----\n2  b\n1 a\n";
        let records = parse(text).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!((records[0].line, records[0].sql.as_str()), (3, "CREATE TABLE t\n(a INT)"));
        assert!(records[0].check(Ok(vec![])).is_ok());
        assert!(records[0].check(Err("x".to_owned())).is_err());
        assert!(records[1].check(Err("[CA-X] no column b".to_owned())).is_ok());
        assert!(records[1].check(Err("[CA-Y] no column b".to_owned())).is_err());
        assert!(records[1].check(Ok(vec![])).is_err());
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert!(records[2].check(Ok(vec![row("1", "a"), row("2", "b")])).is_ok());
        assert!(records[2].check(Ok(vec![row("1", "a")])).is_err());
        assert!(parse("select 1\n").is_err());
    }
}
