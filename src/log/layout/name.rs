//! The name of a segment: epoch and number of its first message, in twenty decimal digits each, so
//! that names sort as positions do.

use super::LIMIT;

/// The cursor's file.
pub(in crate::log) const CURSOR: &str = "cursor";
/// The suffix of a file whose content cannot be told any more, behind the name that it had.
pub(in crate::log) const BAD: &str = ".bad";

const SEGMENT: &str = ".seg";

pub(in crate::log) fn encode(epoch: u64, first: u64) -> String {
    format!("{epoch:020}-{first:020}{SEGMENT}")
}

/// Epoch and number; `None` for what no log has written.
pub(in crate::log) fn parse(name: &str) -> Option<(u64, u64)> {
    let (epoch, first) = name.strip_suffix(SEGMENT)?.split_once('-')?;
    let number = |text: &str| {
        let digits = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && (1..LIMIT).contains(number))
    };
    Some((number(epoch)?, number(first)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_epoch_and_number_in_twenty_digits() {
        let name = "00000000000000000003-00000000000000000500.seg";
        assert_eq!(encode(3, 500), name);
        assert_eq!(parse(name), Some((3, 500)));
        for other in [
            "3-500.seg",
            "00000000000000000003-00000000000000000500.seg.bad",
            "00000000000000000000-00000000000000000500.seg",
            "00000000000000000003-00000000000000000000.seg",
            "+0000000000000000003-00000000000000000500.seg",
            "99999999999999999999-00000000000000000001.seg",
            "04611686018427387904-00000000000000000001.seg",
            "cursor",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
