//! Lists, errors and log pieces.

use serde::{Deserialize, Serialize};

/// Items of a page when the caller names no limit.
pub const LIMIT_DEFAULT: usize = 50;
/// Most items that a page holds, whatever the caller asks for.
pub const LIMIT_MAX: usize = 500;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// How many items match in all.
    pub total: u64,
    /// Hand back as `after` to get the next page; absent on the last one.
    pub next: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), total: 0, next: None }
    }
}

impl<T> Page<T> {
    /// Cuts one page out of an already filtered and sorted list; the cursor is the offset of the next item.
    pub fn cut(all: impl IntoIterator<Item = T>, total: usize, params: &ListParams) -> Self {
        let (start, limit) = (params.offset(), params.limit());
        let items: Vec<T> = all.into_iter().skip(start).take(limit).collect();
        let end = start.saturating_add(items.len());
        let next = (end < total && !items.is_empty()).then(|| end.to_string());
        Self { items, total: total as u64, next }
    }
}

/// Query parameters of every list. A filter that does not apply to a list is ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ListParams {
    /// At most [`LIMIT_MAX`].
    pub limit: Option<usize>,
    /// [`Page::next`] of the page before.
    pub after: Option<String>,
    /// One state or several separated by commas.
    pub state: Option<String>,
    pub job: Option<String>,
    pub run_id: Option<String>,
    /// Free text, looked for in id, name, job, user, label; case does not matter.
    pub q: Option<String>,
}

impl ListParams {
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)
    }

    pub fn offset(&self) -> usize {
        self.after.as_deref().and_then(|after| after.parse().ok()).unwrap_or(0)
    }

    /// A cursor that no page handed out would show the first page again, and a caller that follows it would never end.
    ///
    /// # Errors
    /// `INVALID_REQUEST`.
    pub fn check(&self) -> Result<(), ErrorBody> {
        match self.after.as_deref() {
            Some(after) if !after.is_empty() && after.parse::<usize>().is_err() => Err(ErrorBody::new(
                "INVALID_REQUEST",
                format!("after={after} is no cursor of this list"),
                "Hand back `next` of the page before, or leave `after` out to begin.",
            )),
            _ => Ok(()),
        }
    }

    pub fn wants_state(&self, state: &str) -> bool {
        match self.state.as_deref().map(str::trim) {
            None | Some("") => true,
            Some(states) => states.split(',').any(|wanted| wanted.trim().eq_ignore_ascii_case(state)),
        }
    }

    /// Whether any of the texts holds the free text.
    pub fn wants_text(&self, texts: &[&str]) -> bool {
        match self.q.as_deref().map(str::trim) {
            None | Some("") => true,
            Some(q) => {
                let q = q.to_lowercase();
                texts.iter().any(|text| text.to_lowercase().contains(&q))
            }
        }
    }
}

/// A piece of a run's driver log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LogPage {
    /// Byte offset of `text` within the log.
    pub offset: u64,
    /// Where the next piece begins.
    pub next_offset: u64,
    /// Size of the log as it stands.
    pub total_bytes: u64,
    /// UTF-8; invalid bytes are replaced.
    pub text: String,
    /// Nothing more will come: the run has ended and this piece reaches the end.
    pub complete: bool,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ErrorBody {
    /// Stable, such as `RUN_NOT_FOUND`.
    pub code: String,
    pub message: String,
    /// What a person can do about it; may be empty.
    pub remedy: String,
}

impl ErrorBody {
    pub fn new(code: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_without_overlap() {
        let mut params = ListParams { limit: Some(4), ..ListParams::default() };
        let mut seen = Vec::new();
        loop {
            let page = Page::cut(0..10, 10, &params);
            seen.extend(page.items);
            match page.next {
                Some(next) => params.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn filters_ignore_case_and_accept_lists() {
        let params = ListParams { state: Some("running, FAILED".into()), q: Some("Gold".into()), ..ListParams::default() };
        assert!(params.wants_state("failed") && params.wants_state("running") && !params.wants_state("finished"));
        assert!(params.wants_text(&["x", "gold_aggregation"]) && !params.wants_text(&["silver"]));
    }

    #[test]
    fn cursors_are_checked() {
        let with = |after: &str| ListParams { after: Some(after.into()), ..ListParams::default() }.check();
        assert!(ListParams::default().check().is_ok() && with("").is_ok() && with("25").is_ok());
        assert!(with("-1").is_err() && with("x").is_err());
        assert_eq!(with("99999999999999999999999").map_err(|body| body.code), Err("INVALID_REQUEST".to_owned()));
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(ListParams { limit: Some(1_000_000), ..ListParams::default() }.limit(), LIMIT_MAX);
        assert_eq!(ListParams { limit: Some(0), ..ListParams::default() }.limit(), 1);
    }
}
