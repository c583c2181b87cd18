//! Z-order: rows sorted by the interleaved bits of several columns, so that rows near each other in all of them share files.
//! The bytes are those of Iceberg's `ZOrderByteUtils`, so that files sorted by Spark and by us lie alike.

use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{ScalarValue, exec_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Name of the function; not for SQL, but plans on executors name it.
pub const ZORDER_FUNCTION: &str = "chainalytics_zorder";
/// Bytes that a number contributes.
pub(super) const PRIMITIVE_BYTES: usize = 8;

/// `chainalytics_zorder(output bytes at most, bytes of a text, column, …)`: the interleaved bits of the columns, Binary.
pub fn zorder_function() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(ZOrder { signature: Signature::variadic_any(Volatility::Immutable) })));
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZOrder {
    signature: Signature,
}

impl ScalarUDFImpl for ZOrder {
    fn name(&self) -> &str {
        ZORDER_FUNCTION
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, _, columns @ ..] if !columns.is_empty() && columns.iter().all(is_orderable) => Ok(DataType::Binary),
            _ => plan_err!("{ZORDER_FUNCTION} does not take {types:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let size = |at: usize| match args.args.get(at) {
            Some(ColumnarValue::Scalar(ScalarValue::Int32(Some(size)))) => usize::try_from(*size).ok().filter(|size| *size > 0),
            _ => None,
        };
        let (Some(output_max), Some(text_bytes)) = (size(0), size(1)) else {
            return plan_err!("{ZORDER_FUNCTION} takes two sizes first");
        };
        let rows = args.number_rows;
        let columns: Vec<OrderedBytes> = args
            .args
            .iter()
            .skip(2)
            .map(|column| OrderedBytes::new(&column.to_array(rows)?, text_bytes))
            .collect::<Result<_>>()?;
        let bytes = columns.iter().map(|column| column.width).sum::<usize>().min(output_max);
        let mut builder = BinaryBuilder::with_capacity(rows, rows * bytes);
        let mut value = vec![0; bytes];
        for row in 0..rows {
            let parts: Vec<&[u8]> = columns.iter().map(|column| column.of(row)).collect();
            interleave(&parts, &mut value);
            builder.append_value(&value);
        }
        Ok(ColumnarValue::Array(Arc::new(builder.finish())))
    }
}

/// Whether a column of this type can be part of a z-order.
pub(super) fn is_orderable(data_type: &DataType) -> bool {
    use DataType as D;
    data_type.is_integer()
        || data_type.is_floating()
        || data_type.is_decimal()
        || matches!(data_type, D::Boolean | D::Date32 | D::Time64(_) | D::Timestamp(_, _))
        || matches!(data_type, D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_))
}

/// A column's values as bytes of one length whose order is the values'. Null is all zeros.
struct OrderedBytes {
    width: usize,
    bytes: Vec<u8>,
}

impl OrderedBytes {
    fn new(column: &ArrayRef, text_bytes: usize) -> Result<Self> {
        use DataType as D;
        let rows = column.len();
        match column.data_type() {
            D::Float16 | D::Float32 | D::Float64 | D::Decimal32(_, _) | D::Decimal64(_, _) | D::Decimal128(_, _) | D::Decimal256(_, _) => {
                let values = cast(column, &D::Float64)?;
                Ok(Self::primitive(values.as_primitive::<Float64Type>().iter().map(|v| v.map(of_float))))
            }
            D::Boolean => Ok(Self::primitive(column.as_boolean().iter().map(|v| v.map(|v| if v { 0x81 << 56 } else { 0 })))),
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => {
                let values = cast(column, &D::Binary)?;
                let values = values.as_binary::<i32>();
                let mut bytes = vec![0; rows * text_bytes];
                for (value, to) in values.iter().zip(bytes.chunks_exact_mut(text_bytes)) {
                    let value = value.unwrap_or_default();
                    let kept = value.len().min(text_bytes);
                    to[..kept].copy_from_slice(&value[..kept]);
                }
                Ok(Self { width: text_bytes, bytes })
            }
            other if is_orderable(other) => {
                let through = if matches!(other, D::Date32) { cast(column, &D::Int32)? } else { Arc::clone(column) };
                let values = cast(&through, &D::Int64)?;
                Ok(Self::primitive(values.as_primitive::<Int64Type>().iter().map(|v| v.map(of_whole))))
            }
            other => Err(exec_datafusion_err!("a column of type {other} has no z-order")),
        }
    }

    fn primitive(values: impl Iterator<Item = Option<u64>>) -> Self {
        let bytes = values.flat_map(|value| value.unwrap_or(0).to_be_bytes()).collect();
        Self { width: PRIMITIVE_BYTES, bytes }
    }

    fn of(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.width..(row + 1) * self.width]
    }
}

/// The sign bit flipped, so that negative numbers come first.
fn of_whole(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// Sign and magnitude (IEEE 754) as bytes in the order of the values.
fn of_float(value: f64) -> u64 {
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    bits ^ ((bits.cast_signed() >> 63).cast_unsigned() | (1 << 63))
}

/// The bits of all columns in turn, most significant first; a column without more bits is skipped.
fn interleave(columns: &[&[u8]], out: &mut [u8]) {
    out.fill(0);
    let total = out.len() * 8;
    let longest = columns.iter().map(|column| column.len()).max().unwrap_or(0);
    let mut at = 0;
    for byte in 0..longest {
        for bit in (0..8).rev() {
            for column in columns {
                let Some(source) = column.get(byte) else { continue };
                if at == total {
                    return;
                }
                out[at / 8] |= ((source >> bit) & 1) << (7 - at % 8);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use datafusion::arrow::array::{Int32Array, StringArray};

    use super::*;

    // Cases of Iceberg's TestZOrderByteUtil.
    #[test]
    fn bits_come_in_turn() {
        let bits = |text: &str| -> Vec<u8> {
            let bits: Vec<u8> = text.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
            bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect()
        };
        let interleaved = |columns: &[&[u8]], size: usize| {
            let mut out = vec![0xff; size];
            interleave(columns, &mut out);
            out
        };
        assert_eq!(interleaved(&[&bits("11111111"), &bits("00000000")], 2), bits("10101010 10101010"));
        assert_eq!(interleaved(&[&bits("11111111"), &bits("00000000 11111111")], 3), bits("10101010 10101010 11111111"));
        assert_eq!(interleaved(&[&[0xff], &[0], &[0xff]], 3), bits("10110110 11011011 01101101"));
        assert_eq!(interleaved(&[&[0xff, 0xff], &[0, 0]], 2), bits("10101010 10101010"));
    }

    #[test]
    fn bytes_are_in_the_order_of_the_values() {
        let whole = [i64::MIN, -5, -1, 0, 1, 7, i64::MAX];
        assert!(whole.windows(2).all(|w| of_whole(w[0]) < of_whole(w[1])));
        let floats = [f64::NEG_INFINITY, -1e300, -1.5, -0.0, 0.0, 1e-300, 2.5, f64::INFINITY, f64::NAN];
        assert!(floats.windows(2).all(|w| of_float(w[0]) < of_float(w[1])));
    }

    #[test]
    fn texts_are_cut_or_filled_and_nulls_come_first() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("abcdef"), Some("a"), None]));
        let ordered = OrderedBytes::new(&texts, 4).unwrap();
        assert_eq!((ordered.of(0), ordered.of(1), ordered.of(2)), (b"abcd".as_slice(), b"a\0\0\0".as_slice(), b"\0\0\0\0".as_slice()));
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let ordered = OrderedBytes::new(&numbers, 4).unwrap();
        assert_eq!((ordered.of(0), ordered.of(1)), ([0x80, 0, 0, 0, 0, 0, 0, 1].as_slice(), [0; 8].as_slice()));
    }
}
