//! Cuts a script into statements at `;`, aware of strings, quoted names, comments and dollar quotes. Used for files, pipes and to
//! tell whether a prompt's line continues; the text itself is parsed by the planner.

/// What a piece of a script holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Complete statements, without their `;`, trimmed; empty ones are dropped.
    pub statements: Vec<String>,
    /// What follows the last `;`, trimmed. A comment alone counts as nothing.
    pub rest: String,
    /// The rest ends within a string, a quoted name or a block comment.
    pub open: bool,
}

/// Cuts `script`.
pub fn split(script: &str) -> Split {
    let bytes = script.as_bytes();
    let mut out = Split::default();
    let (mut start, mut at) = (0, 0);
    // Whether anything but blanks and comments stands between `start` and `at`.
    let mut has_text = false;
    while at < bytes.len() {
        let (end, closed) = match bytes[at] {
            b';' => {
                if has_text {
                    out.statements.push(script[start..at].trim().to_owned());
                }
                (start, has_text) = (at + 1, false);
                (at + 1, true)
            }
            quote @ (b'\'' | b'"' | b'`') => {
                has_text = true;
                quoted(bytes, at, quote)
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => (line_end(bytes, at), true),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment(bytes, at),
            b'$' => {
                has_text = true;
                dollar_quoted(script, at)
            }
            byte => {
                has_text |= !byte.is_ascii_whitespace();
                (at + 1, true)
            }
        };
        out.open = !closed;
        at = end;
    }
    if has_text || out.open {
        out.rest = script[start..].trim().to_owned();
    }
    out
}

/// A doubled quote within the quotes is two quoted pieces side by side, which ends at the same place.
fn quoted(bytes: &[u8], at: usize, quote: u8) -> (usize, bool) {
    match bytes[at + 1..].iter().position(|b| *b == quote) {
        Some(length) => (at + 1 + length + 1, true),
        None => (bytes.len(), false),
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |length| at + length + 1)
}

/// Block comments nest.
fn block_comment(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut depth = 0usize;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return (at, true);
                }
            }
            _ => at += 1,
        }
    }
    (bytes.len(), false)
}

/// `$tag$ ... $tag$`; a lone `$` (a parameter such as `$1`) is plain text.
fn dollar_quoted(script: &str, at: usize) -> (usize, bool) {
    let rest = &script[at + 1..];
    let tag_length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let is_tag = rest.as_bytes().get(tag_length) == Some(&b'$') && !rest.bytes().next().is_some_and(|b| b.is_ascii_digit());
    if !is_tag {
        return (at + 1, true);
    }
    let tag = &script[at..at + tag_length + 2];
    let body = at + tag.len();
    match script[body..].find(tag) {
        Some(length) => (body + length + tag.len(), true),
        None => (script.len(), false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[track_caller]
    fn check(script: &str, statements: &[&str], rest: &str, open: bool) {
        let expected = Split { statements: statements.iter().map(|s| (*s).to_owned()).collect(), rest: rest.to_owned(), open };
        assert_eq!(split(script), expected, "{script:?}");
    }

    #[test]
    fn statements_and_rest() {
        check("", &[], "", false);
        check("select 1", &[], "select 1", false);
        check("select 1;", &["select 1"], "", false);
        check(" select 1 ;; \n select 2; sel", &["select 1", "select 2"], "sel", false);
    }

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_cut() {
        check("select ';', 'it''s;', \"a;b\", `c;d`; x", &["select ';', 'it''s;', \"a;b\", `c;d`"], "x", false);
        check("select 1 -- no; cut\n, 2;", &["select 1 -- no; cut\n, 2"], "", false);
        check("select /* a; /* b; */ ; */ 1;", &["select /* a; /* b; */ ; */ 1"], "", false);
        check("select $$a;b$$, $x$;$$;$x$;", &["select $$a;b$$, $x$;$$;$x$"], "", false);
        check("select $1; select $2", &["select $1"], "select $2", false);
    }

    #[test]
    fn comments_alone_are_nothing_and_open_pieces_are_known() {
        check("-- just this\n /* and that */ ;", &[], "", false);
        check("select 1; -- bye", &["select 1"], "", false);
        check("select 'abc", &[], "select 'abc", true);
        check("/* abc", &[], "/* abc", true);
        check("select $t$ abc ;", &[], "select $t$ abc ;", true);
    }

    #[test]
    fn text_beyond_ascii_survives() {
        check("select 'é;ü' as ñ; ü", &["select 'é;ü' as ñ"], "ü", false);
    }
}
