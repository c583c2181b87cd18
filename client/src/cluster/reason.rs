//! What a failed query says, made readable. Executors report errors in Rust's debug form, wrapped several times:
//! `Job failed due to stage 1 failed: Task failed due to runtime execution error: DataFusionError(Shared(External(ArrowError(DivideByZero))))`.

use chainalytics_common::{Error, ErrorCode};

/// The query's own error, with the code that whoever raised it gave it.
pub(crate) fn error_of(message: &str) -> Error {
    if let Some(error) = own_error(message) {
        return error;
    }
    let has = |sign: &str| message.contains(sign);
    let code = if message.trim_end().ends_with("Cancelled") || has("job was cancelled") {
        ErrorCode::Cancelled
    } else if has("Resources exhausted") || has("ResourcesExhausted") || has("No space left on device") || has("StorageFull") {
        ErrorCode::ResourcesExhausted
    } else if has("Error during planning") || has("Schema error") {
        ErrorCode::SqlPlan
    } else if has("This feature is not implemented") || has("NotImplemented(") {
        ErrorCode::SqlUnsupported
    } else {
        ErrorCode::QueryFailed
    };
    Error::new(code, readable(message))
}

/// An error of the platform in the text, as it displays itself or in debug form.
pub(crate) fn own_error(message: &str) -> Option<Error> {
    Error::parse(message).or_else(|| {
        let (_, rest) = message.split_once("Error { code: ")?;
        let (name, rest) = rest.split_once(", message: \"")?;
        let code = ErrorCode::ALL.iter().copied().find(|code| format!("{code:?}") == name)?;
        Some(Error::new(code, unquote(rest)))
    })
}

/// Without the wrappers, and without Rust's quotes.
fn readable(message: &str) -> String {
    let mut text = message.trim();
    for marker in ["runtime execution error: ", "due to planning error: "] {
        if let Some((_, rest)) = text.rsplit_once(marker) {
            text = rest.trim();
        }
    }
    while let Some(inner) = peel(text) {
        text = inner;
    }
    match text.strip_prefix('"') {
        Some(rest) => unquote(rest),
        None if text.is_empty() => message.to_owned(),
        None => text.to_owned(),
    }
}

/// `Name(inner)` or `Name(inner, None)` to `inner`.
fn peel(text: &str) -> Option<&str> {
    let (name, rest) = text.split_once('(')?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    let inner = rest.strip_suffix(')')?;
    Some(inner.strip_suffix(", None").unwrap_or(inner))
}

/// A Rust string literal up to its closing quote.
fn unquote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => break,
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const PREFIX: &str = "Job failed due to stage 1 failed: Task failed due to runtime execution error: ";

    #[test]
    fn wrappers_are_taken_off() {
        let text = |inner: &str| error_of(&format!("{PREFIX}{inner}\n")).message().to_owned();
        assert_eq!(text("DataFusionError(Shared(External(ArrowError(DivideByZero))))"), "DivideByZero");
        assert_eq!(
            text(r#"DataFusionError(Shared(External(ArrowError(CastError("Cannot cast string '2x' to value of Int32 type")))))"#),
            "Cannot cast string '2x' to value of Int32 type"
        );
        assert_eq!(text(r#"DataFusionError(ArrowError(ParseError("bad \"x\""), None))"#), "bad \"x\"");
        assert_eq!(error_of("something else (really)").message(), "something else (really)");
    }

    #[test]
    fn codes_survive_the_debug_form() {
        let error = Error::new(ErrorCode::StorageWrite, "disk \"full\"");
        let wire = format!("{PREFIX}DataFusionError(External({error:?}))");
        let found = error_of(&wire);
        assert_eq!((found.code(), found.message()), (ErrorCode::StorageWrite, "disk \"full\""));
        let found = error_of(&format!("Job failed: {error}"));
        assert_eq!(found.code(), ErrorCode::StorageWrite);
    }

    #[test]
    fn kinds_are_told_apart() {
        for (text, code) in [
            ("Job failed: Cancelled", ErrorCode::Cancelled),
            ("IoError(Os { code: 28, kind: StorageFull, message: \"No space left on device\" })", ErrorCode::ResourcesExhausted),
            ("Error during planning: no column x", ErrorCode::SqlPlan),
            ("whatever", ErrorCode::QueryFailed),
        ] {
            assert_eq!(error_of(text).code(), code, "{text}");
        }
    }
}
