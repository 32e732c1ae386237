//! Text of files that people have written, with the byte-order mark of some editors.

/// The text after the mark that some editors of Windows begin a file with. UTF-16, which others
/// write, is an error that goes on after the name of the file.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&[u8], &'static str> {
    match bytes {
        // A byte-order mark, or the zero in the first character, which is ASCII in every file that
        // is read here.
        [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] | [0, _, ..] | [_, 0, ..] => Err("is UTF-16: save it as UTF-8"),
        text => Ok(text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_skipped_and_utf_16_is_named() {
        assert_eq!(utf8(b"\xEF\xBB\xBF{}"), Ok(&b"{}"[..]));
        for text in [&b""[..], b"{", b"{}", b"\xEF\xBB", "ä".as_bytes()] {
            assert_eq!(utf8(text), Ok(text));
        }
        for text in [&b"\xFF\xFE{\0}\0"[..], b"\xFE\xFF\0{\0}", b"{\0}\0", b"\0{\0}"] {
            assert_eq!(utf8(text), Err("is UTF-16: save it as UTF-8"));
        }
    }
}
