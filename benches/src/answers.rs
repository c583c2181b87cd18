//! Whether two engines gave the same rows.

use serde_json::Value;

/// How far floats may differ, relative to the larger one: sums depend on the order of their terms.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// Rows of two engines, in any order (a query's order leaves ties): strings, dates and integers exactly, other numbers within 1e-9 of each other or
/// as far as the one with fewer digits tells. Columns are compared by position.
///
/// # Errors
/// The first difference, in words.
pub fn compare(left: &[Value], right: &[Value]) -> Result<(), String> {
    compare_by(left, right, |_, x, y| same(x, y))
}

/// Rows of the same engine run in two ways, in any order: equal but for columns named in `floats`, which may differ by 1e-9.
///
/// # Errors
/// As [`compare`].
pub fn compare_exactly(left: &[Value], right: &[Value], floats: &[&str]) -> Result<(), String> {
    let names: Vec<String> = left.first().and_then(Value::as_object).map(|row| row.keys().cloned().collect()).unwrap_or_default();
    compare_by(left, right, |column, x, y| x == y || names.get(column).is_some_and(|name| floats.contains(&name.as_str())) && same(x, y))
}

fn compare_by(left: &[Value], right: &[Value], equal: impl Fn(usize, &Value, &Value) -> bool) -> Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("{} rows against {}", left.len(), right.len()));
    }
    for (row, (a, b)) in sorted(left).into_iter().zip(sorted(right)).enumerate() {
        let (a, b) = (cells(a), cells(b));
        if a.len() != b.len() {
            return Err(format!("row {row}: {} columns against {}", a.len(), b.len()));
        }
        for (column, (x, y)) in a.iter().zip(&b).enumerate() {
            if !equal(column, x, y) {
                return Err(format!("row {row}, column {column}: {x} against {y}"));
            }
        }
    }
    Ok(())
}

/// By a text in which engines agree: numbers with few digits.
fn sorted(rows: &[Value]) -> Vec<&Value> {
    let key = |value: &Value| match text(value) {
        Some(text) => text.parse::<f64>().map_or(text, |number| format!("{number:.5e}")),
        None => value.to_string(),
    };
    let mut rows: Vec<&Value> = rows.iter().collect();
    rows.sort_by_cached_key(|row| cells(row).into_iter().map(|cell| key(cell) + "\u{1}").collect::<String>());
    rows
}

/// The values of a row, which is an object or an array.
fn cells(row: &Value) -> Vec<&Value> {
    match row {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        other => vec![other],
    }
}

fn same(x: &Value, y: &Value) -> bool {
    if x == y {
        return true;
    }
    // Decimals print as numbers or as text, with or without trailing zeros.
    let (Some(a), Some(b)) = (text(x), text(y)) else { return false };
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (plain_decimal(&a), plain_decimal(&b))
        && a == b
    {
        return true;
    }
    let (Ok(a), Ok(b)) = (a.parse::<f64>(), b.parse::<f64>()) else { return false };
    // Two whole numbers that differ are different, however large.
    let whole = |v: &Value| v.is_i64() || v.is_u64();
    if whole(x) && whole(y) {
        return false;
    }
    (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs()) || (a - b).abs() <= last_digit(x).max(last_digit(y))
}

/// What one unit of the last digit is worth: quotients of decimals are cut off after a few digits by some engines. 0 if there are too few to tell.
fn last_digit(value: &Value) -> f64 {
    let text = text(value).unwrap_or_default();
    match text.split_once('.') {
        Some((_, fraction)) if fraction.len() >= 6 && fraction.bytes().all(|b| b.is_ascii_digit()) => 10_f64.powi(-(fraction.len() as i32)),
        _ => 0.0,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}

/// A decimal number without exponent, trailing zeros removed.
fn plain_decimal(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    Some(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_may_differ_a_little_and_nothing_else() {
        let ok = |a: Value, b: Value| compare(&[json!([a])], &[json!([b])]).is_ok();
        assert!(ok(json!(1.000_000_000_001), json!(1.0)));
        assert!(!ok(json!(1.001), json!(1.0)));
        assert!(ok(json!(0.034_435_89), json!(0.034_435_890_406_654_8)));
        assert!(ok(json!("12.50"), json!(12.5)));
        assert!(!ok(json!(12), json!(13)));
        assert!(!ok(json!(4_503_599_627_370_497_i64), json!(4_503_599_627_370_496_i64)));
        assert!(!ok(json!("a"), json!("b")));
        assert!(ok(json!(null), json!(null)));
        assert!(!ok(json!(null), json!(0)));
    }

    #[test]
    fn rows_and_columns_count() {
        assert!(compare(&[json!({"a": 1})], &[]).is_err());
        assert!(compare(&[json!({"a": 1})], &[json!([1, 2])]).is_err());
        assert!(compare(&[json!({"a": 1, "b": "x"})], &[json!([1, "x"])]).is_ok());
        assert!(compare(&[json!([1]), json!([2])], &[json!([2]), json!([1])]).is_ok());
    }

    #[test]
    fn only_named_columns_may_differ_a_little() {
        let rows = |a: f64, b: f64| [json!({"a": a, "b": b})];
        let check = |x: &[Value], y: &[Value]| compare_exactly(x, y, &["a"]).is_ok();
        assert!(check(&rows(1.000_000_000_000_1, 2.0), &rows(1.0, 2.0)));
        assert!(!check(&rows(1.0, 2.000_000_000_000_1), &rows(1.0, 2.0)));
    }
}
