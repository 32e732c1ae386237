//! Values of arguments.

use hpfeeds::units;
pub(super) use hpfeeds::units::seconds as parse_seconds;

pub(super) fn parse_size(text: &str) -> Result<usize, &'static str> {
    usize::try_from(units::size(text)?).map_err(|_| "too large")
}

pub(super) fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=1024).contains(threads))
        .ok_or_else(|| "not a number from 1 to 1024".to_owned())
}

pub(super) fn parse_message(text: &str) -> Result<u32, &'static str> {
    u32::try_from(units::size(text)?).map_err(|_| "too large: a frame holds less than 4G")
}
