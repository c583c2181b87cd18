#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::OpenOptions;
use std::io::Write;

use super::super::batch::tests::client_batch;
use super::*;

const LIMITS: LogLimits = LogLimits { segment_bytes: 4096, max_batch_bytes: 1 << 20, retention: None, retention_bytes: None };

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("broker-{name}-{}", uuid::Uuid::new_v4()));
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn append(log: &PartitionLog, n: usize, producer: Option<(i64, i16, i32)>, ts: i64) -> Result<Appended, AppendError> {
    log.append(&Bytes::from(client_batch(n, producer, ts)), &LIMITS)
}

/// All offsets, read batch by batch with a small limit.
fn offsets(log: &PartitionLog) -> Vec<i64> {
    let mut next = log.log_start();
    let mut all = Vec::new();
    loop {
        let bytes = log.read(next, 300, true).unwrap().unwrap();
        if bytes.is_empty() {
            return all;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = BatchHeader::parse_checked(&rest).unwrap().size;
            all.extend(decode(rest.split_to(size)).unwrap().into_iter().map(|(o, _)| o).filter(|o| *o >= next));
        }
        next = all.last().unwrap() + 1;
    }
}

#[test]
fn appends_rolls_and_reads_back_after_reopening() {
    let dir = Dir::new("roll");
    let log = PartitionLog::open(&dir.0).unwrap();
    for i in 0..100 {
        let appended = append(&log, 10, None, i * 1000).unwrap();
        assert_eq!(appended.base_offset, i * 10);
    }
    assert!(log.segments.read().len() > 3);
    assert_eq!(offsets(&log), (0..1000).collect::<Vec<i64>>());
    log.flush().unwrap();
    drop(log);
    let log = PartitionLog::open(&dir.0).unwrap();
    assert_eq!(log.next_offset(), 1000);
    assert_eq!(offsets(&log), (0..1000).collect::<Vec<i64>>());
    assert!(log.read(1001, 100, true).unwrap().is_none());
    assert!(log.read(1000, 100, true).unwrap().unwrap().is_empty());
    // in the middle of a batch: the batch that holds it comes
    let bytes = log.read(505, 100, true).unwrap().unwrap();
    assert_eq!(BatchHeader::parse(&bytes).unwrap().base_offset, 500);
    assert!(log.bytes_after(0) > log.bytes_after(900));
    assert_eq!(log.bytes_after(1000), 0);
}

#[test]
fn a_torn_tail_is_cut_and_writing_goes_on() {
    let dir = Dir::new("torn");
    let batch = client_batch(10, None, 0);
    for cut in [1, 12, 16, 61, batch.len() - 1] {
        let _ = std::fs::remove_dir_all(&dir.0);
        let log = PartitionLog::open(&dir.0).unwrap();
        append(&log, 10, Some((5, 0, 0)), 0).unwrap();
        append(&log, 10, Some((5, 0, 10)), 0).unwrap();
        drop(log);
        let path = dir.0.join(super::super::segment::file_name(0));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&batch[..cut]).unwrap();
        drop(file);
        let log = PartitionLog::open(&dir.0).unwrap();
        assert_eq!(log.next_offset(), 20, "cut at {cut}");
        // the producer's state came back with the log
        let again = append(&log, 10, Some((5, 0, 10)), 0).unwrap();
        assert_eq!(again, Appended { base_offset: 10, duplicate: true });
        assert!(matches!(append(&log, 10, Some((5, 0, 40)), 0), Err(AppendError::OutOfOrder { .. })));
        assert_eq!(append(&log, 10, Some((5, 0, 20)), 0).unwrap().base_offset, 20);
        assert_eq!(offsets(&log), (0..30).collect::<Vec<i64>>());
    }
}

#[test]
fn a_damaged_last_batch_is_cut() {
    let dir = Dir::new("damaged");
    let log = PartitionLog::open(&dir.0).unwrap();
    append(&log, 10, None, 0).unwrap();
    append(&log, 10, None, 0).unwrap();
    drop(log);
    let path = dir.0.join(super::super::segment::file_name(0));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let log = PartitionLog::open(&dir.0).unwrap();
    assert_eq!(log.next_offset(), 10);
    assert_eq!(append(&log, 1, None, 0).unwrap().base_offset, 10);
}

#[test]
fn invalid_batches_are_refused() {
    let dir = Dir::new("invalid");
    let log = PartitionLog::open(&dir.0).unwrap();
    let batch = client_batch(3, None, 0);
    let twice = Bytes::from([batch.clone(), batch.clone()].concat());
    assert!(matches!(log.append(&twice, &LIMITS), Err(AppendError::NotOneBatch)));
    let small = LogLimits { max_batch_bytes: 10, ..LIMITS };
    assert!(matches!(log.append(&Bytes::from(batch.clone()), &small), Err(AppendError::TooLarge { .. })));
    let mut bad = batch;
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(log.append(&Bytes::from(bad), &LIMITS), Err(AppendError::Batch(BatchError::Crc))));
    assert_eq!(log.next_offset(), 0);
}

#[test]
fn offsets_by_timestamp() {
    let dir = Dir::new("time");
    let log = PartitionLog::open(&dir.0).unwrap();
    for i in 0..50 {
        append(&log, 10, None, i * 1000).unwrap();
    }
    assert_eq!(log.offset_for_timestamp(0).unwrap(), Some((0, 0)));
    assert_eq!(log.offset_for_timestamp(20_005).unwrap(), Some((205, 20_005)));
    assert_eq!(log.offset_for_timestamp(20_010).unwrap(), Some((210, 21_000)));
    assert_eq!(log.offset_for_timestamp(50_000).unwrap(), None);
    assert_eq!(log.offset_of_max_timestamp().unwrap(), Some((499, 49_009)));
}

#[test]
fn retention_moves_the_low_watermark() {
    let dir = Dir::new("retention");
    let log = PartitionLog::open(&dir.0).unwrap();
    for i in 0..100 {
        append(&log, 10, None, i).unwrap();
    }
    let bytes = LogLimits { retention_bytes: Some(5000), ..LIMITS };
    assert!(log.enforce_retention(&bytes).unwrap() > 0);
    let start = log.log_start();
    assert!(start > 0 && start < 1000 && log.size_bytes() >= 5000);
    assert!(log.read(start - 1, 100, true).unwrap().is_none());
    assert_eq!(offsets(&log), (start..1000).collect::<Vec<i64>>());
    drop(log);
    let log = PartitionLog::open(&dir.0).unwrap();
    assert_eq!(log.log_start(), start);
    std::thread::sleep(Duration::from_millis(20));
    let age = LogLimits { retention: Some(Duration::from_millis(5)), ..LIMITS };
    log.enforce_retention(&age).unwrap();
    assert_eq!((log.log_start(), log.next_offset()), (1000, 1000));
    drop(log);
    // offsets go on where they were although no record is left
    let log = PartitionLog::open(&dir.0).unwrap();
    assert_eq!((log.log_start(), log.next_offset()), (1000, 1000));
    assert_eq!(append(&log, 1, None, 0).unwrap().base_offset, 1000);
}

#[test]
fn deleted_records_stay_deleted() {
    let dir = Dir::new("delete");
    let log = PartitionLog::open(&dir.0).unwrap();
    for i in 0..10 {
        append(&log, 10, None, i).unwrap();
    }
    assert_eq!(log.delete_before(55).unwrap(), Some(55));
    assert_eq!(log.delete_before(101).unwrap(), None);
    assert_eq!(log.delete_before(10).unwrap(), Some(55));
    drop(log);
    let log = PartitionLog::open(&dir.0).unwrap();
    assert_eq!(log.log_start(), 55);
    assert_eq!(offsets(&log), (55..100).collect::<Vec<i64>>());
    assert_eq!(log.delete_before(-1).unwrap(), Some(100));
}
