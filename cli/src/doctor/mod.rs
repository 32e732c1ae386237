//! `hpfeeds doctor`: checks each link of the chain to a broker in its order, from the settings to
//! messages that come back, and says of each fault what to do.

pub(crate) mod args;
mod auth;
mod certificate;
mod channels;
mod conversation;
mod echo;
mod machine;
mod network;
mod opening;
mod report;
mod route;
mod settings;
mod text;

use std::ffi::OsString;

use hpfeeds::{Ident, Limits};
use jiff::Timestamp;

use self::{
    args::DoctorArgs,
    auth::Session,
    report::{Check, Report},
    route::{Key, Route, Times},
    text::{Printer, Style},
};
use crate::{connection::ConnectionArgs, exit::Failure, signals::Stop, words};

/// Checks everything, prints the report, and ends with its exit code.
pub(crate) async fn run(connection: ConnectionArgs, args: DoctorArgs, mut stop: Stop) -> Result<(), Failure> {
    let addr = connection.addr();
    let (ident, _) = connection.key();
    let shown_ident = Some(words::shown(ident.as_bytes())).filter(|ident| !ident.is_empty());
    let broker = words::shown(addr.to_string().as_bytes());
    let report = Report::new(broker, shown_ident, connection.tls_options().is_some(), args.strict);
    let for_people = !args.output.json && !args.output.nagios;
    let printer = for_people.then(|| Printer::new(Style::of_stdout(), args.output.short));
    let mut diagnosis = Diagnosis::start(report, printer);
    tokio::select! {
        () = examine(&connection, &args, &mut diagnosis) => {}
        signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
    }
    let report = diagnosis.report;
    let (text, code) = if args.output.nagios {
        machine::nagios(&report)
    } else if args.output.json {
        (machine::json(&report), report.code())
    } else {
        (report.summary(report.elapsed()) + "\n", report.code())
    };
    text::print(&text);
    if code == 0 { Ok(()) } else { Err(Failure::silent(code)) }
}

/// Whether these arguments ask for a line for Nagios.
pub(crate) fn is_for_nagios(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments.into_iter();
    arguments.any(|argument| argument == "doctor") && arguments.any(|argument| argument == "--nagios")
}

/// Says to Nagios that the command line makes no sense: nothing is known of the broker.
pub(crate) fn unknown(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    text::print(&machine::nagios_unknown(line.strip_prefix("error: ").unwrap_or(line)));
    machine::UNKNOWN
}

/// The report as it grows, shown to a person check by check.
struct Diagnosis {
    report: Report,
    printer: Option<Printer>,
}

impl Diagnosis {
    fn start(report: Report, printer: Option<Printer>) -> Self {
        if let Some(printer) = printer {
            printer.title(&report.title);
        }
        Self { report, printer }
    }

    fn add(&mut self, check: Check) {
        if let Some(printer) = self.printer {
            printer.check(&check);
        }
        self.report.checks.push(check);
    }

    fn extend(&mut self, checks: impl IntoIterator<Item = Check>) {
        for check in checks {
            self.add(check);
        }
    }
}

/// The checks in their order. Each needs those before it.
async fn examine(connection: &ConnectionArgs, args: &DoctorArgs, diagnosis: &mut Diagnosis) {
    let (ident, secret) = connection.key();
    let text = connection.secret_text();
    diagnosis.extend(settings::settings(&args.given, ident, text));
    diagnosis.add(settings::clock(Timestamp::now()));
    let key = Ident::new(ident).ok().filter(|_| !secret.is_empty());
    let key = key.map(|ident| Key { ident, secret, oddity: settings::oddity(text) });
    let Some((route, greeted)) = reach(connection, args, diagnosis).await else {
        return;
    };
    let Some(key) = key else {
        diagnosis.add(Check::skipped("AUTH", "not checked: no ident and secret are given"));
        return;
    };
    let (checks, session) = auth::check(&route, &key, greeted).await;
    diagnosis.extend(checks);
    let Some(session) = session else {
        for (name, wanted) in
            [("subscribe", !args.channels.is_empty()), ("echo", args.echo.is_some()), ("listen", args.listen.is_some())]
        {
            if wanted {
                diagnosis.add(Check::skipped(name, "not checked: AUTH failed"));
            }
        }
        return;
    };
    use_channels(&route, &key, session, args, diagnosis).await;
}

/// The checks up to the greeting.
async fn reach(
    connection: &ConnectionArgs,
    args: &DoctorArgs,
    diagnosis: &mut Diagnosis,
) -> Option<(Route, opening::Greeted)> {
    let (addr, times) = (connection.addr(), Times::new(args.timeout));
    let (check, addresses) = network::resolve(&addr, times.dns).await;
    diagnosis.add(check);
    if addresses.is_empty() {
        return None;
    }
    let (checks, connected) = network::connect(&addresses, times.tcp).await;
    diagnosis.extend(checks);
    let connected = connected?;
    let route = Route {
        addr,
        address: connected.address,
        tls: connection.tls_options(),
        tls_name: connection.tls_name().map(str::to_owned),
        own_trust: connection.has_own_trust(),
        cert_days: args.cert_days,
        limits: Limits::new(connection.max_message()),
        times,
    };
    let (checks, transport) = opening::secure(&route, connected.stream).await;
    diagnosis.extend(checks);
    let (checks, greeted) = opening::greet(&route, transport?, connected.elapsed).await;
    diagnosis.extend(checks);
    Some((route, greeted?))
}

/// The checks of channels, of the echo and of listening.
async fn use_channels(route: &Route, key: &Key, session: Session, args: &DoctorArgs, diagnosis: &mut Diagnosis) {
    let mut current = Some(session);
    let mut granted = Vec::new();
    if !args.channels.is_empty()
        && let Some(session) = current.take()
    {
        let (checks, found, session) = channels::check(route, key, session, &args.channels).await;
        diagnosis.extend(checks);
        (granted, current) = (found, session);
    }
    if let Some(long) = args.listen {
        if granted.is_empty() {
            diagnosis.add(Check::skipped("listen", "not checked: no channel is subscribed to"));
        } else {
            match listening(route, key, current.take(), &granted).await {
                Ok(mut session) => diagnosis.add(echo::listen(&mut session, long).await),
                Err(why) => diagnosis.add(lost_again("listen", &why)),
            }
        }
    }
    if let Some(channel) = &args.echo {
        // On a connection of its own, which gets no other channel's messages.
        drop(current);
        match auth::again(route, key).await {
            Ok(session) => diagnosis.extend(echo::echo(route, key, session, channel).await),
            Err(why) => diagnosis.add(lost_again("echo", &why)),
        }
    }
}

/// A session that is subscribed to all channels that are granted, also when one that is not has
/// ended the connection.
async fn listening(
    route: &Route,
    key: &Key,
    session: Option<Session>,
    granted: &[hpfeeds::Channel],
) -> Result<Session, String> {
    if let Some(session) = session {
        return Ok(session);
    }
    let session = auth::again(route, key).await?;
    let (_, session) = channels::subscribe(route, key, session, granted).await;
    session.ok_or_else(|| "the broker does not take what it took before".to_owned())
}

fn lost_again(name: &'static str, why: &str) -> Check {
    Check::problem(name, format!("no further connection: {why}"), "see the broker's log, and its limits of connections")
}
