/// Records of a chunk at most.
pub const CHUNK_ROWS_MAX: usize = 8192;
/// Bytes of keys and values after which a chunk is closed. One record may be larger.
pub const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Consecutive records of one partition, copied out of the consumer's buffers into two contiguous ones: no allocation
/// per record.
#[derive(Debug, Default, Clone)]
pub struct RecordChunk {
    values: Vec<u8>,
    /// End of each value in `values`; negative for a null value (its bytes are none).
    value_ends: Vec<i64>,
    keys: Vec<u8>,
    key_ends: Vec<i64>,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
}

impl RecordChunk {
    /// Room for a full chunk of small records.
    pub fn with_capacity(rows: usize, value_bytes: usize) -> Self {
        Self {
            values: Vec::with_capacity(value_bytes),
            value_ends: Vec::with_capacity(rows),
            keys: Vec::new(),
            key_ends: Vec::with_capacity(rows),
            offsets: Vec::with_capacity(rows),
            timestamps_ms: Vec::with_capacity(rows),
        }
    }

    /// Appends a record. `timestamp_ms`: -1 where the broker kept none.
    pub fn push(&mut self, offset: i64, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        append(&mut self.keys, &mut self.key_ends, key);
        append(&mut self.values, &mut self.value_ends, value);
        self.offsets.push(offset);
        self.timestamps_ms.push(timestamp_ms);
    }

    /// The records at other offsets than these, which ascend.
    #[must_use]
    pub fn without(&self, offsets: &[i64]) -> Self {
        let mut rest = Self::default();
        for (row, (offset, timestamp_ms)) in self.offsets.iter().zip(&self.timestamps_ms).enumerate() {
            if offsets.binary_search(offset).is_err() {
                rest.push(*offset, *timestamp_ms, self.key(row), self.value(row));
            }
        }
        rest
    }

    /// Records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.values.len() + self.keys.len()
    }

    /// Whether another record belongs into the next chunk.
    pub fn is_full(&self) -> bool {
        self.len() >= CHUNK_ROWS_MAX || self.bytes() >= CHUNK_BYTES_MAX
    }

    /// Value of a record; `None` for a null value (a tombstone).
    pub fn value(&self, row: usize) -> Option<&[u8]> {
        slice(&self.values, &self.value_ends, row)
    }

    /// Key of a record.
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        slice(&self.keys, &self.key_ends, row)
    }

    /// Offsets.
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// The records' own times, milliseconds since the epoch; -1 where there is none.
    pub fn timestamps_ms(&self) -> &[i64] {
        &self.timestamps_ms
    }
}

/// A null is marked by the bitwise complement of its end, which is negative for every length.
fn append(bytes: &mut Vec<u8>, ends: &mut Vec<i64>, value: Option<&[u8]>) {
    if let Some(value) = value {
        bytes.extend_from_slice(value);
    }
    let end = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    ends.push(if value.is_some() { end } else { !end });
}

fn slice<'a>(bytes: &'a [u8], ends: &[i64], row: usize) -> Option<&'a [u8]> {
    let position = |end: i64| usize::try_from(if end < 0 { !end } else { end }).unwrap_or(0);
    let end = *ends.get(row)?;
    if end < 0 {
        return None;
    }
    let start = match row.checked_sub(1) {
        None => 0,
        Some(before) => position(ends[before]),
    };
    bytes.get(start..position(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_went_in() {
        let mut chunk = RecordChunk::with_capacity(4, 64);
        chunk.push(7, 1000, Some(b"k"), Some(b"one"));
        chunk.push(8, -1, None, None);
        chunk.push(9, 1002, Some(b""), Some(b""));
        chunk.push(12, 1003, None, Some(b"four"));
        assert_eq!(chunk.len(), 4);
        assert_eq!(chunk.value(0), Some(&b"one"[..]));
        assert_eq!(chunk.value(1), None);
        assert_eq!(chunk.value(2), Some(&b""[..]));
        assert_eq!(chunk.value(3), Some(&b"four"[..]));
        assert_eq!(chunk.key(0), Some(&b"k"[..]));
        assert_eq!(chunk.key(1), None);
        assert_eq!(chunk.key(2), Some(&b""[..]));
        assert_eq!(chunk.key(3), None);
        assert_eq!(chunk.offsets(), [7, 8, 9, 12]);
        assert_eq!(chunk.bytes(), 8);
        let rest = chunk.without(&[3, 8, 9, 10]);
        assert_eq!((rest.offsets(), rest.timestamps_ms()), (&[7, 12][..], &[1000, 1003][..]));
        assert_eq!((rest.key(0), rest.value(0), rest.key(1), rest.value(1)), (Some(&b"k"[..]), Some(&b"one"[..]), None, Some(&b"four"[..])));
    }

    #[test]
    fn a_first_null_is_a_null() {
        let mut chunk = RecordChunk::default();
        chunk.push(0, -1, None, None);
        chunk.push(1, -1, None, Some(b"x"));
        assert_eq!(chunk.value(0), None);
        assert_eq!(chunk.value(1), Some(&b"x"[..]));
    }
}
