//! Whether two engines gave the same rows.

use serde_json::Value;

/// How far floats may differ, relative to the larger one: sums depend on the order of their terms.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// Compares rows in their order: strings, dates, integers and decimals exactly, floats within 1e-9 of each other. Columns are compared by position.
///
/// # Errors
/// The first difference, in words.
pub fn compare(left: &[Value], right: &[Value]) -> Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("{} rows against {}", left.len(), right.len()));
    }
    for (row, (a, b)) in left.iter().zip(right).enumerate() {
        let (a, b) = (cells(a), cells(b));
        if a.len() != b.len() {
            return Err(format!("row {row}: {} columns against {}", a.len(), b.len()));
        }
        for (column, (x, y)) in a.iter().zip(&b).enumerate() {
            if !same(x, y) {
                return Err(format!("row {row}, column {column}: {x} against {y}"));
            }
        }
    }
    Ok(())
}

/// As [`compare`], for queries whose order leaves ties: both sides are sorted by their text first.
///
/// # Errors
/// As [`compare`].
pub fn compare_sorted(left: &[Value], right: &[Value]) -> Result<(), String> {
    let sorted = |rows: &[Value]| {
        let mut rows: Vec<Value> = rows.to_vec();
        rows.sort_by_cached_key(|row| cells(row).iter().map(|cell| format!("{cell}\u{1}")).collect::<String>());
        rows
    };
    compare(&sorted(left), &sorted(right))
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
    (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs())
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
        assert!(!ok(json!(1.000_001), json!(1.0)));
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
        assert!(compare_sorted(&[json!([1]), json!([2])], &[json!([2]), json!([1])]).is_ok());
    }
}
