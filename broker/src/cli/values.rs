//! Parsers of the values of arguments: sizes, times, limits, addresses.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _, ValueParser};
use hpfeeds::units;
pub(super) use hpfeeds::units::{message_size as parse_message, seconds as parse_seconds};

use crate::net::endpoint::{Endpoint, parse::EndpointError};

/// An address to listen on. `None` for an empty value, as an unset variable of a compose file
/// leaves it: it counts as not given, as in the Python broker.
#[derive(Debug, Clone)]
pub(super) struct Address(pub(super) Option<Endpoint>);

pub(super) fn parse_address(text: &str) -> Result<Address, EndpointError> {
    match text {
        "" => Ok(Address(None)),
        _ => Endpoint::bind(text).map(|endpoint| Address(Some(endpoint))),
    }
}

/// An address, or an endpoint with TLS.
pub(super) fn parse_dashboard(text: &str) -> Result<Address, EndpointError> {
    if text.starts_with("tls:") { text.parse().map(|endpoint| Address(Some(endpoint))) } else { parse_address(text) }
}

pub(super) fn parse_size(text: &str) -> Result<usize, &'static str> {
    usize::try_from(units::size(text)?).map_err(|_| "too large")
}

/// A period such as 7d; zero stands for no limit.
pub(super) fn parse_period(text: &str) -> Result<Period, &'static str> {
    units::period(text).map(|period| Period(Some(period).filter(|period| !period.is_zero())))
}

/// A time, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period(pub(super) Option<Duration>);

/// A switch: on or off, in a file also true or false.
pub(super) fn switch() -> ValueParser {
    let values = [PossibleValue::new("on").alias("true"), PossibleValue::new("off").alias("false")];
    PossibleValuesParser::new(values).map(|value| matches!(&*value, "on" | "true")).into()
}

/// The fault of a limit of zero, which would stop everything.
const ZERO: &str = "must be at least 1";

/// A number of connections.
pub(super) fn parse_connections(text: &str) -> Result<NonZeroUsize, String> {
    let number: usize = text.parse().map_err(|cause: std::num::ParseIntError| cause.to_string())?;
    NonZeroUsize::new(number).ok_or_else(|| ZERO.to_owned())
}

/// A number of messages per second.
pub(super) fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let number: u64 = text.parse().map_err(|cause: std::num::ParseIntError| cause.to_string())?;
    NonZeroU64::new(number).ok_or_else(|| ZERO.to_owned())
}

/// A number of bytes per second.
pub(super) fn parse_rate_in_bytes(text: &str) -> Result<NonZeroU64, &'static str> {
    NonZeroU64::new(units::size(text)?).ok_or(ZERO)
}

pub(super) fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=1024).contains(threads))
        .ok_or_else(|| "not a number from 1 to 1024".to_owned())
}
