//! Files into groups of about equal bytes: one group is one partition of the scan, so one slot's work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Cost of opening a file, in bytes read instead: many tiny files are not spread over more tasks than they are worth.
const OPEN_COST_BYTES: u64 = 1024 * 1024;
/// Least bytes worth a partition of their own.
const MIN_GROUP_BYTES: u64 = 8 * 1024 * 1024;

/// The part of a file that one group reads: whole row groups, `[start, end)` in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index into the files given.
    pub file: usize,
    /// `None` reads the whole file.
    pub range: Option<(i64, i64)>,
    weight: u64,
}

/// Size and row-group offsets of a file.
pub struct FileShape<'a> {
    pub bytes: u64,
    pub split_offsets: &'a [i64],
}

/// Balances files over at most `target` groups; no group is empty. Large files are cut between row groups.
pub fn balance(files: &[FileShape<'_>], target: usize) -> Vec<Vec<Piece>> {
    if files.is_empty() {
        return Vec::new();
    }
    let total: u64 = files.iter().map(|f| f.bytes.max(OPEN_COST_BYTES)).sum();
    let groups = usize::try_from(total.div_ceil(MIN_GROUP_BYTES)).unwrap_or(usize::MAX).clamp(1, target.max(1));
    let share = total.div_ceil(groups as u64).max(1);
    let mut pieces: Vec<Piece> = files.iter().enumerate().flat_map(|(i, file)| cut(i, file, share)).collect();
    pieces.sort_by_key(|p| (Reverse(p.weight), p.file, p.range));
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = (0..groups).map(|g| Reverse((0, g))).collect();
    let mut result: Vec<Vec<Piece>> = vec![Vec::new(); groups];
    for piece in pieces {
        let Some(Reverse((load, group))) = heap.pop() else { break };
        heap.push(Reverse((load + piece.weight, group)));
        result[group].push(piece);
    }
    result.retain(|group| !group.is_empty());
    for group in &mut result {
        group.sort_by_key(|p| (p.file, p.range));
    }
    result
}

/// Cuts a file into pieces of about `share` bytes at its row groups.
fn cut(file: usize, shape: &FileShape<'_>, share: u64) -> Vec<Piece> {
    let whole = || vec![Piece { file, range: None, weight: shape.bytes.max(OPEN_COST_BYTES) }];
    let size = i64::try_from(shape.bytes).unwrap_or(i64::MAX);
    let offsets = shape.split_offsets;
    let sound = offsets.windows(2).all(|w| w[0] < w[1]) && offsets.last().is_some_and(|last| *last < size);
    if shape.bytes <= share + share / 4 || offsets.len() < 2 || !sound {
        return whole();
    }
    let share = i64::try_from(share).unwrap_or(i64::MAX);
    let mut pieces = Vec::new();
    let mut start = 0;
    for next in offsets.iter().skip(1).copied().chain([size]) {
        if next - start >= share || next == size {
            let weight = u64::try_from(next - start).unwrap_or(0).max(OPEN_COST_BYTES);
            pieces.push(Piece { file, range: Some((start, next)), weight });
            start = next;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_large_file_is_cut_at_its_row_groups_and_nothing_is_lost() {
        let offsets: Vec<i64> = (0..10).map(|i| 4 + i * 10 * MIB as i64).collect();
        let files = [FileShape { bytes: 100 * MIB, split_offsets: &offsets }, FileShape { bytes: 20 * MIB, split_offsets: &[4] }];
        let groups = balance(&files, 4);
        assert_eq!(groups.len(), 4);
        let mut ranges: Vec<_> = groups.iter().flatten().filter(|p| p.file == 0).filter_map(|p| p.range).collect();
        ranges.sort_unstable();
        assert_eq!(ranges.first().unwrap().0, 0);
        assert_eq!(ranges.last().unwrap().1, 100 * MIB as i64);
        assert!(ranges.windows(2).all(|w| w[0].1 == w[1].0), "{ranges:?}");
        assert_eq!(groups.iter().flatten().filter(|p| p.file == 1).count(), 1);
    }

    #[test]
    fn tiny_files_share_few_groups() {
        let files: Vec<FileShape<'_>> = (0..16).map(|_| FileShape { bytes: 1000, split_offsets: &[] }).collect();
        assert_eq!(balance(&files, 8).len(), 2);
        assert_eq!(balance(&[], 8).len(), 0);
    }
}
