//! The terminal of stdout: whether it shows UTF-8 and colours, and its size.

use std::env;

/// Whether the locale says that text is UTF-8.
pub(crate) fn has_utf8() -> bool {
    is_utf8(&["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default())
}

/// Whether the terminal has colours, and they are wanted (`NO_COLOR`).
pub(crate) fn wants_colours() -> bool {
    !is_dumb() && set("NO_COLOR").is_none()
}

/// Whether the terminal can do nothing but print lines.
pub(crate) fn is_dumb() -> bool {
    set("TERM").is_none_or(|term| term == "dumb")
}

/// The width of the terminal in columns, if it tells.
pub(crate) fn columns() -> Option<usize> {
    size().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

/// The height of the terminal in lines, if it tells.
#[cfg(feature = "top")]
pub(crate) fn lines() -> Option<usize> {
    size().map(|(_, lines)| lines).filter(|lines| *lines > 0)
}

#[cfg(unix)]
fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_col.into(), size.ws_row.into()))
}

#[cfg(not(unix))]
fn size() -> Option<(usize, usize)> {
    None
}

/// A variable that is set and not empty.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_say_whether_they_are_utf8() {
        for (locale, expected) in
            [("de_DE.UTF-8", true), ("C.utf8", true), ("C", false), ("", false), ("POSIX", false), ("de_DE", false)]
        {
            assert_eq!(is_utf8(locale), expected, "{locale}");
        }
    }
}
