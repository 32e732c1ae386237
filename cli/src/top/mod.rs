//! `hpfeeds top`: the dashboard of a broker in a terminal, live, or once as text or JSON.

mod address;
mod app;
pub(crate) mod args;
mod baseline;
mod console;
mod fault;
mod header;
mod http;
mod live;
mod model;
mod once;
mod paint;
mod pane;
mod poll;
mod query;
mod refused;
mod rows;
mod screen;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod screen_tests;
mod sse;
mod table;
mod tail;
mod text;

use std::io::{self, IsTerminal as _};

use jiff::tz::TimeZone;

use self::{args::TopArgs, http::Client, text::Look};
use crate::{
    connection::ConnectionArgs,
    exit::{Failure, USAGE},
    signals::Stop,
    terminal,
};

/// Shows the dashboard of a broker.
pub(crate) async fn run(connection: ConnectionArgs, args: TopArgs, mut stop: Stop) -> Result<(), Failure> {
    let usage = |text: String| Failure::with_code(USAGE, text);
    let (address, token) = address::find(connection.url_text(), args.token_file.as_deref()).map_err(usage)?;
    let tls = connection.tls_options();
    if tls.is_some() && !address.tls {
        let text = "an option of TLS is given, and an address that begins with http://: give one with https://";
        return Err(usage(text.to_owned()));
    }
    let client = Client::new(address, &token, tls, args.timeout);
    let on_terminal = io::stdout().is_terminal();
    let look = Look {
        colour: on_terminal && terminal::wants_colours(),
        unicode: on_terminal && terminal::has_utf8(),
        zone: TimeZone::system(),
    };
    if args.once || args.json || !on_terminal || terminal::is_dumb() {
        return tokio::select! {
            ended = once::run(client, &args, &look) => ended,
            signal = stop.requested() => Err(Failure::silent(signal.exit_code())),
        };
    }
    live::run(client, &args, &look, stop).await
}
