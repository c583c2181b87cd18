//! Lines back from a file, however it ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use chainalytics_api_types::RunSummary;

use crate::event::{Envelope, RunEvent, SCHEMA_VERSION};
use crate::replay::{Replayer, RunReplay};
use crate::{LogError, LogResult};

/// Longest line that is read; longer ones are skipped. Guards the reader's memory against a damaged file.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What a list needs to know of a run: the summary and which queries belong to it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunLogHead {
    pub summary: RunSummary,
    pub complete: bool,
}

/// Replays a whole log. A file that was cut off (a crash, a run in progress) yields what was written before the cut, with
/// [`RunReplay::complete`] false.
///
/// Errors: the file cannot be opened; its first line is of a newer version; nothing in it is an event of ours.
pub fn read_run_log(path: &Path) -> LogResult<RunReplay> {
    let file = File::open(path).map_err(LogError::io("open", path))?;
    let decoder = zstd::stream::read::Decoder::new(file).map_err(LogError::io("read", path))?;
    let mut lines = BufReader::with_capacity(64 * 1024, decoder);
    let mut replayer = Replayer::default();
    let mut understood = 0_u64;
    let mut newest_refused = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        // A torn frame at the end reads as an error: everything before it stands.
        match (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if !line.ends_with(b"\n") {
            if line.len() as u64 == LINE_BYTES_MAX && skip_to_line_end(&mut lines) {
                replayer.skip_line();
                continue;
            }
            break;
        }
        match parse(&line) {
            Parsed::Event(event) => {
                understood += 1;
                replayer.apply(*event);
            }
            Parsed::Newer(version) => {
                newest_refused = newest_refused.max(Some(version));
                replayer.skip_line();
            }
            Parsed::Unknown => replayer.skip_line(),
        }
    }
    match (understood, newest_refused) {
        (0, Some(found)) => Err(LogError::UnsupportedVersion { path: path.to_owned(), found, supported: SCHEMA_VERSION }),
        (0, None) => Err(LogError::Malformed { path: path.to_owned(), detail: "it holds no event of a run".to_owned() }),
        _ => Ok(replayer.finish()),
    }
}

/// Only what a list shows; the rest of the replay is dropped at once.
pub fn read_run_summary(path: &Path) -> LogResult<RunLogHead> {
    let replay = read_run_log(path)?;
    Ok(RunLogHead { summary: replay.detail.summary, complete: replay.complete })
}

enum Parsed {
    Event(Box<RunEvent>),
    Newer(u32),
    Unknown,
}

fn parse(line: &[u8]) -> Parsed {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(line) else { return Parsed::Unknown };
    if envelope.version > SCHEMA_VERSION {
        return Parsed::Newer(envelope.version);
    }
    match RunEvent::from_envelope(envelope) {
        Ok(Some(event)) => Parsed::Event(Box::new(event)),
        Ok(None) | Err(_) => Parsed::Unknown,
    }
}

fn skip_to_line_end(lines: &mut impl BufRead) -> bool {
    loop {
        let (used, found) = match lines.fill_buf() {
            Ok([]) | Err(_) => return false,
            Ok(buffer) => match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), false),
            },
        };
        lines.consume(used);
        if found {
            return true;
        }
    }
}

/// How many bytes at the front of a log are whole frames. What follows was torn by a crash and must go before anything is appended,
/// since a reader stops at it.
pub(crate) fn whole_frames_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        match zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]) {
            Ok(length) if length > 0 => at += length,
            _ => break,
        }
    }
    at
}
