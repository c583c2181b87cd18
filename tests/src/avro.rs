//! Records in Avro's binary encoding behind a schema registry's prefix, written by hand: a second opinion beside the libraries.

/// A record of a registered schema: a zero byte, the schema's id, the fields in the schema's order.
pub fn record(id: i32, fields: &[Vec<u8>]) -> Option<Vec<u8>> {
    Some([&[0][..], &id.to_be_bytes(), &fields.concat()].concat())
}

/// An `int` or a `long`: zigzag, seven bits a byte.
pub fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

pub fn float(value: f32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub fn double(value: f64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub fn text(text: &str) -> Vec<u8> {
    bytes(text.as_bytes())
}

/// A `bytes` decimal of this many units of its last digit.
pub fn decimal(units: i64) -> Vec<u8> {
    bytes(&units.to_be_bytes())
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&long(i64::try_from(bytes.len()).unwrap()), bytes].concat()
}

/// The value of one branch of a union.
pub fn branch(branch: i64, value: &[u8]) -> Vec<u8> {
    [&long(branch), value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_the_specification_has_them() {
        for (value, bytes) in [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (-64, vec![0x7f]), (64, vec![0x80, 1]), (i64::MIN, [vec![0xff; 9], vec![1]].concat())] {
            assert_eq!(long(value), bytes, "{value}");
        }
        assert_eq!(text("foo"), [6, 0x66, 0x6f, 0x6f]);
    }
}
