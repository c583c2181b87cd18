//! Pieces of the driver log that the scheduler kept in `<data-dir>/runs/<run_id>/driver.log`.

use std::io::SeekFrom;
use std::path::Path;

use chainalytics_api_types::LogPage;
use chainalytics_event_log::is_safe_id;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes when the caller names no limit, and most of one answer.
const LIMIT_DEFAULT: u64 = 64 << 10;
const LIMIT_MAX: u64 = 1 << 20;

/// Without `offset`, the end of the log. A run without a log has an empty one.
pub(crate) async fn read(data_dir: &Path, run_id: &str, offset: Option<u64>, limit: Option<u64>) -> std::io::Result<LogPage> {
    if !is_safe_id(run_id) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let limit = limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let mut file = match File::open(data_dir.join("runs").join(run_id).join("driver.log")).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LogPage { complete: true, ..LogPage::default() }),
        Err(error) => return Err(error),
    };
    let total_bytes = file.metadata().await?.len();
    let offset = offset.unwrap_or_else(|| total_bytes.saturating_sub(limit)).min(total_bytes);
    file.seek(SeekFrom::Start(offset)).await?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data).await?;
    let next_offset = offset + data.len() as u64;
    Ok(LogPage { offset, next_offset, total_bytes, text: String::from_utf8_lossy(&data).into_owned(), complete: next_offset >= total_bytes })
}
