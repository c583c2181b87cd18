//! The record batch, format v2 (magic 2), as it lies on the wire and on disk.
//!
//! Only the first 61 bytes are ever looked at; the records themselves stay opaque, compressed or not. The checksum
//! covers everything from `attributes` on, so base offset and leader epoch may be patched without touching it.

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the `batch_length` field doesn't count: base offset and the field itself.
pub const PREFIX_BYTES: usize = 12;
/// The CRC covers the batch from here to its end.
const CRC_START: usize = 21;
/// The leader epoch of every batch: one broker, never another leader.
pub const LEADER_EPOCH: i32 = 0;

/// Why bytes are not a batch that this broker stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or the length field promise.
    #[error("record batch is cut off")]
    Truncated,
    /// Magic 0 and 1 (message sets of before 2017) or an unknown format.
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
    /// CRC32C differs.
    #[error("record batch fails its checksum")]
    Crc,
    /// Counts that contradict each other, or control batches from a client.
    #[error("record batch header is invalid")]
    Invalid,
    /// Batch of a transaction.
    #[error("transactions are not supported")]
    Transactional,
}

/// The decoded header of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Size of the whole batch in bytes, header included.
    pub size: usize,
    /// CRC32C of everything after the field.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Last record's offset minus the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, ms since the epoch.
    pub base_timestamp_ms: i64,
    /// Largest timestamp in the batch, ms since the epoch.
    pub max_timestamp_ms: i64,
    /// Producer id, -1 if the producer isn't idempotent.
    pub producer_id: i64,
    /// Producer epoch, -1 without producer id.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 without producer id.
    pub base_sequence: i32,
    /// Number of records.
    pub records: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`. The records need not be there.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let header: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES).and_then(|h| h.try_into().ok()).ok_or(BatchError::Truncated)?;
        // the position of magic is the same in all formats, so an old one is told apart from garbage
        let magic = header[16] as i8;
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = be_i32(header, 8);
        let size = usize::try_from(length).map_err(|_| BatchError::Invalid)? + PREFIX_BYTES;
        if size < HEADER_BYTES {
            return Err(BatchError::Invalid);
        }
        let parsed = Self {
            base_offset: be_i64(header, 0),
            size,
            crc: be_i32(header, 17) as u32,
            attributes: i16::from_be_bytes([header[21], header[22]]),
            last_offset_delta: be_i32(header, 23),
            base_timestamp_ms: be_i64(header, 27),
            max_timestamp_ms: be_i64(header, 35),
            producer_id: be_i64(header, 43),
            producer_epoch: i16::from_be_bytes([header[51], header[52]]),
            base_sequence: be_i32(header, 53),
            records: be_i32(header, 57),
        };
        if parsed.last_offset_delta < 0 || parsed.records < 0 {
            return Err(BatchError::Invalid);
        }
        Ok(parsed)
    }

    /// Reads and checks one whole batch at the start of `bytes`: magic, length and CRC.
    pub fn parse_checked(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse(bytes)?;
        let body = bytes.get(CRC_START..header.size).ok_or(BatchError::Truncated)?;
        if crc32c::crc32c(body) != header.crc {
            return Err(BatchError::Crc);
        }
        Ok(header)
    }

    /// What a client's batch must fulfil beyond its checksum.
    pub fn check_from_client(&self) -> Result<(), BatchError> {
        const TRANSACTIONAL: i16 = 1 << 4;
        const CONTROL: i16 = 1 << 5;
        if self.attributes & CONTROL != 0 {
            return Err(BatchError::Invalid);
        }
        if self.attributes & TRANSACTIONAL != 0 {
            return Err(BatchError::Transactional);
        }
        // a client never leaves holes in a batch; the sequence arithmetic relies on it
        if self.records == 0 || self.last_offset_delta != self.records - 1 {
            return Err(BatchError::Invalid);
        }
        if self.producer_id >= 0 && (self.base_sequence < 0 || self.producer_epoch < 0) {
            return Err(BatchError::Invalid);
        }
        Ok(())
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Sequence number of the last record; sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// `base + delta` in the ring 0..=i32::MAX.
pub fn add_sequence(base: i32, delta: i32) -> i32 {
    ((i64::from(base) + i64::from(delta)) & i64::from(i32::MAX)) as i32
}

/// Writes the broker's own fields into a batch. The checksum stays valid.
pub fn patch(batch: &mut [u8], base_offset: i64) {
    if let Some(field) = batch.get_mut(0..8) {
        field.copy_from_slice(&base_offset.to_be_bytes());
    }
    if let Some(field) = batch.get_mut(12..16) {
        field.copy_from_slice(&LEADER_EPOCH.to_be_bytes());
    }
}

fn be_i32(bytes: &[u8; HEADER_BYTES], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be_i64(bytes: &[u8; HEADER_BYTES], at: usize) -> i64 {
    (i64::from(be_i32(bytes, at)) << 32) | i64::from(be_i32(bytes, at + 4) as u32)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    /// One batch as a client would send it: base offset 0, `n` records.
    pub fn client_batch(n: usize, producer: Option<(i64, i16, i32)>, timestamp_ms: i64) -> Vec<u8> {
        let (producer_id, producer_epoch, base_sequence) = producer.unwrap_or((-1, -1, -1));
        let records: Vec<Record> = (0..n)
            .map(|i| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id,
                producer_epoch,
                timestamp_type: TimestampType::Creation,
                offset: i as i64,
                // the encoder starts a new batch unless offset and sequence run in step, also without producer id
                sequence: base_sequence + i as i32,
                timestamp: timestamp_ms + i as i64,
                key: Some(format!("k{i}").into()),
                value: Some(format!("value {i}").into()),
                headers: Default::default(),
            })
            .collect();
        let mut buf = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut buf, records.iter(), &options).unwrap();
        buf.to_vec()
    }

    #[test]
    fn header_of_a_real_batch() {
        let batch = client_batch(5, Some((7, 1, 40)), 1_000);
        let header = BatchHeader::parse_checked(&batch).unwrap();
        assert_eq!(header.size, batch.len());
        assert_eq!(header.records, 5);
        assert_eq!(header.last_offset(), 4);
        assert_eq!(header.max_timestamp_ms, 1_004);
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 1, 40));
        assert_eq!(header.last_sequence(), 44);
        header.check_from_client().unwrap();
    }

    #[test]
    fn patching_keeps_the_checksum() {
        let mut batch = client_batch(3, None, 0);
        patch(&mut batch, 1 << 40);
        let header = BatchHeader::parse_checked(&batch).unwrap();
        assert_eq!(header.base_offset, 1 << 40);
        assert_eq!(header.last_offset(), (1 << 40) + 2);
    }

    #[test]
    fn damage_is_found() {
        let batch = client_batch(3, None, 0);
        assert_eq!(BatchHeader::parse_checked(&batch[..batch.len() - 1]), Err(BatchError::Truncated));
        let mut flipped = batch.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(BatchHeader::parse_checked(&flipped), Err(BatchError::Crc));
        let mut old = batch;
        old[16] = 1;
        assert_eq!(BatchHeader::parse_checked(&old), Err(BatchError::Magic(1)));
    }

    #[test]
    fn sequences_wrap() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
    }
}
