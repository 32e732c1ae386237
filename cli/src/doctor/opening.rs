//! The checks of what answers: TLS, another protocol, and the broker's greeting.

use std::time::{Duration, Instant};

use hpfeeds::{
    Transport,
    tls_probe::{self, TlsFault, TlsProbe},
    wire::{Frame, Header, Nonce, OtherProtocol, extension},
};
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    time::{Instant as Deadline, sleep, timeout},
};

use super::{
    certificate::{self, Expected},
    conversation::{Conversation, Fault, Heard, tls_words},
    network::Connected,
    report::Check,
    route::Route,
};
use crate::words::{shown, time};

/// The check of what speaks there.
const PROTOCOL: &str = "protocol";
const INFO: &str = "INFO";

/// The advice for a broker that wants to know this side by TLS.
const CLIENT_CERTIFICATE: &str = "give one that the broker trusts: --tls-client-cert FILE and --tls-client-key FILE";

/// After so long without a word, a peer is asked by TLS what it is, besides twice the time of the
/// connection.
const SILENCE: Duration = Duration::from_secs(1);

/// A greeting that takes longer than this, besides the way, is worth a warning.
const SLOW: Duration = Duration::from_secs(2);

/// A broker that has greeted.
pub(super) struct Greeted {
    pub(super) conversation: Conversation,
    pub(super) nonce: Nonce,
    /// Whether it offers the extension.
    pub(super) extended: bool,
}

/// Does the TLS handshake, and judges the certificate.
pub(super) async fn secure(route: &Route, tcp: TcpStream) -> (Vec<Check>, Option<Box<dyn Transport>>) {
    let Some(tls) = &route.tls else {
        return (Vec::new(), Some(Box::new(tcp)));
    };
    let (started, wait) = (Instant::now(), route.times.tls);
    let TlsProbe { certificates, outcome } = match tls.probe(&route.addr, tcp, wait).await {
        Ok(probe) => probe,
        Err(cause) => {
            let what = shown(cause.to_string().as_bytes());
            let check = Check::problem("settings", what, "mend the options of TLS: --tlscert, --tls-client-cert, …");
            return (vec![check.code(crate::exit::code(&cause))], None);
        }
    };
    let elapsed = started.elapsed();
    let expected = Expected {
        name: route.tls_name.as_deref().unwrap_or(route.addr.host()),
        own_trust: route.own_trust,
        warn_days: route.cert_days,
        now: Timestamp::now(),
    };
    match outcome {
        Ok(secured) => {
            let speaks = Check::passed(PROTOCOL, format!("{} in {}", secured.version, time(elapsed)));
            let speaks = speaks.with("speaks", secured.version).took(elapsed);
            let certificate = certificate::check(&certificates, None, expected);
            (std::iter::once(speaks).chain(certificate).collect(), Some(secured.transport))
        }
        Err(fault) => {
            let check = certificate::check(&certificates, Some(&fault), expected);
            let check = match check {
                Some(check) => vec![Check::passed(PROTOCOL, "TLS").with("speaks", "TLS").took(elapsed), check],
                None => vec![no_tls(&fault).took(elapsed)],
            };
            (check, None)
        }
    }
}

/// The check of a handshake that failed, and not for the broker's certificate.
fn no_tls(fault: &TlsFault) -> Check {
    match fault {
        TlsFault::NotTls(Some(OtherProtocol::Hpfeeds)) => Check::problem(
            PROTOCOL,
            "hpfeeds without TLS answers, and TLS is asked for",
            "leave out --tls and --tlscert, or give the broker's port for TLS with --port",
        )
        .with("speaks", "hpfeeds"),
        TlsFault::NotTls(Some(other)) => speaks(*other),
        TlsFault::NotTls(None) => Check::problem(
            PROTOCOL,
            "what answers there is not TLS",
            "check the port, or leave out --tls and --tlscert",
        ),
        TlsFault::Silent(wait) => Check::problem(
            PROTOCOL,
            format!("connected, and no answer to TLS in {}", time(*wait)),
            "something takes connections for a broker that does not answer: see the broker, its load balancer or proxy",
        ),
        TlsFault::Closed => Check::problem(
            PROTOCOL,
            "the connection was closed in the TLS handshake",
            "check the port, and search the broker's log for \"TLS handshake failed\"",
        ),
        TlsFault::ClientCertificateMissing => {
            Check::problem(PROTOCOL, "the broker asks for a certificate of ours", CLIENT_CERTIFICATE)
                .with("speaks", "TLS")
        }
        TlsFault::ClientCertificateRefused(alert) => {
            Check::problem(PROTOCOL, format!("the broker does not take our certificate ({alert})"), CLIENT_CERTIFICATE)
                .with("speaks", "TLS")
        }
        fault => {
            let advice = "search the broker's log for \"TLS handshake failed\"";
            Check::problem(PROTOCOL, tls_words(fault), advice).with("speaks", "TLS")
        }
    }
}

/// The check of a peer that is no broker.
fn speaks(other: OtherProtocol) -> Check {
    let (what, advice) = match other {
        OtherProtocol::Tls => {
            ("TLS", "connect with --tls, or with --tlscert FILE and the certificate of its authority")
        }
        OtherProtocol::Ssh => ("SSH", "check --port: this is the port of an SSH server"),
        OtherProtocol::Http => ("HTTP", "check --port: this is the port of a web server, such as the broker's metrics"),
        _ => ("something else", "check --host and --port"),
    };
    Check::problem(PROTOCOL, format!("{what} answers there, and not hpfeeds"), advice).with("speaks", what)
}

/// Why there is no greeting.
enum NoGreeting {
    Fault(Fault),
    Other(OtherProtocol),
    /// Bytes of no protocol that is known.
    Unknown(Vec<u8>),
    /// INFO that does not go on after so many bytes.
    Partial(usize),
    /// ERROR in place of INFO: its text.
    Refused(String),
}

/// Waits for the broker's greeting. A peer that says nothing is asked by TLS what it is.
pub(super) async fn greet(
    route: &Route,
    transport: Box<dyn Transport>,
    connected: Duration,
) -> (Vec<Check>, Option<Greeted>) {
    let started = Instant::now();
    let wait = route.times.greeting;
    let mut conversation = Conversation::new(transport, route.limits);
    let greeting = read_greeting(&mut conversation, Deadline::now() + wait);
    let ask = async {
        sleep(SILENCE + 2 * connected).await;
        match identify(route).await {
            Some(other) => NoGreeting::Other(other),
            None => std::future::pending().await,
        }
    };
    let greeting = tokio::select! {
        biased;
        greeting = greeting => greeting,
        other = ask, if route.tls.is_none() => Err(other),
    };
    let elapsed = started.elapsed();
    match greeting {
        Ok((name, nonce)) => {
            let (name, extended) = extension::strip(&name);
            let checks = greeted(route, name, &nonce, extended, elapsed, connected);
            (checks, Some(Greeted { conversation, nonce, extended }))
        }
        Err(why) => (vec![silent(route, why, wait).took(elapsed)], None),
    }
}

/// The checks of a greeting that came.
fn greeted(
    route: &Route,
    name: &str,
    nonce: &Nonce,
    extended: bool,
    elapsed: Duration,
    connected: Duration,
) -> Vec<Check> {
    let offers = if extended { "extension hpx/1" } else { "no extension" };
    let bytes = nonce.as_bytes().len();
    let summary = format!("\"{}\" in {} · nonce of {bytes} bytes · {offers}", shown(name.as_bytes()), time(elapsed));
    let info = if bytes == 0 {
        Check::warning(
            INFO,
            summary,
            "the nonce is empty, so that an answer that is overheard is good for ever: replace \
            the broker's software",
        )
    } else if elapsed > SLOW + 2 * connected {
        Check::warning(INFO, summary, "the greeting took long: the broker, or a proxy before it, is overloaded")
    } else {
        Check::passed(INFO, summary)
    };
    let info = info
        .with("name", shown(name.as_bytes()))
        .with("nonce_bytes", bytes)
        .with("extension", extended)
        .with("seconds", elapsed.as_secs_f64())
        .took(elapsed);
    let plain = Check::passed(PROTOCOL, "hpfeeds, without TLS").with("speaks", "hpfeeds");
    if route.tls.is_some() { vec![info] } else { vec![plain, info] }
}

/// Reads INFO: the broker's name and the nonce.
async fn read_greeting(conversation: &mut Conversation, deadline: Deadline) -> Result<(String, Nonce), NoGreeting> {
    loop {
        let unread = conversation.unread();
        // An answer of TLS, HTTP or SSH is whole long before a frame of the length that it claims.
        if let Some(other) = OtherProtocol::of(unread).filter(|other| *other != OtherProtocol::Hpfeeds) {
            return Err(NoGreeting::Other(other));
        }
        if Header::parse(unread, hpfeeds::Limits::default()).is_err() {
            return Err(NoGreeting::Unknown(unread.to_vec()));
        }
        match conversation.next_buffered() {
            Ok(Some(Heard::Frame(Frame::Info { name, nonce }))) => return Ok((name, nonce)),
            Ok(Some(Heard::Frame(Frame::Error { message }))) => return Err(NoGreeting::Refused(shown(&message))),
            Ok(Some(_)) => return Err(NoGreeting::Fault(Fault::Malformed("another frame than INFO".to_owned()))),
            Ok(None) => {}
            Err(fault) => return Err(NoGreeting::Fault(fault)),
        }
        if let Err(fault) = conversation.receive(deadline).await {
            let unread = conversation.unread();
            return Err(match OtherProtocol::of(unread) {
                _ if unread.is_empty() => NoGreeting::Fault(fault),
                Some(OtherProtocol::Hpfeeds) => NoGreeting::Partial(unread.len()),
                _ => NoGreeting::Unknown(unread.to_vec()),
            });
        }
    }
}

/// The check of a greeting that did not come.
fn silent(route: &Route, why: NoGreeting, wait: Duration) -> Check {
    let name = if route.tls.is_some() { INFO } else { PROTOCOL };
    match why {
        NoGreeting::Other(other) => Check { name, ..speaks(other) },
        NoGreeting::Unknown(bytes) => Check::problem(
            name,
            format!("something else than hpfeeds answers there: \"{}\"", shown(bytes.get(..60).unwrap_or(&bytes))),
            "check --host and --port",
        )
        .with("speaks", "something else"),
        NoGreeting::Partial(bytes) => Check::problem(
            name,
            format!("the greeting stopped after {bytes} bytes, for {}", time(wait)),
            "the broker is stuck, or the connection is: see its log, and the network between",
        ),
        NoGreeting::Refused(text) => Check::problem(
            name,
            format!("the broker turns connections away: \"{text}\""),
            "see its limits of connections (--max-connections and per address), and its log",
        ),
        NoGreeting::Fault(Fault::TimedOut) => {
            let advice = if route.tls.is_some() {
                "a web server waits like this: check the port; or the broker is stuck"
            } else {
                "something takes connections for a broker that does not answer: see the broker, its load balancer or proxy"
            };
            Check::problem(name, format!("connected, and not a word in {}", time(wait)), advice)
        }
        NoGreeting::Fault(fault @ (Fault::Closed | Fault::Broken(_))) => {
            if let Fault::Broken(cause) = &fault
                && let Some(TlsFault::ClientCertificateMissing | TlsFault::ClientCertificateRefused(_)) =
                    TlsFault::of(cause)
            {
                // TLS 1.3 says so only now.
                return Check::problem(name, fault.words(wait), CLIENT_CERTIFICATE);
            }
            Check::problem(
                name,
                format!("{}, without a greeting", fault.words(wait)),
                "the broker is ending, or turns this address away: see its log",
            )
        }
        NoGreeting::Fault(fault) => Check::problem(name, fault.words(wait), "check --host and --port"),
    }
}

/// Asks a silent peer by TLS what it is, on a connection of its own: TLS answers, a web server says
/// that it does not understand.
async fn identify(route: &Route) -> Option<OtherProtocol> {
    let wait = route.times.tls;
    let tcp = timeout(wait, TcpStream::connect(route.address)).await.ok()?.ok()?;
    // A broker that greets late is waited for.
    tls_probe::identify(tcp, wait).await.filter(|other| *other != OtherProtocol::Hpfeeds)
}

/// Opens one more connection, as far as the greeting; or says what is wrong.
pub(super) async fn again(route: &Route) -> Result<Greeted, String> {
    let wait = route.times.tcp;
    let started = Instant::now();
    let stream = match timeout(wait, TcpStream::connect(route.address)).await {
        Err(_elapsed) => return Err(format!("no connection in {}", time(wait))),
        Ok(Err(cause)) => return Err(shown(cause.to_string().as_bytes())),
        Ok(Ok(stream)) => stream,
    };
    drop(stream.set_nodelay(true));
    let connected = Connected { address: route.address, stream, elapsed: started.elapsed() };
    let (checks, transport) = secure(route, connected.stream).await;
    let why = |checks: Vec<Check>| checks.into_iter().next_back().map_or_else(String::new, |check| check.summary);
    let Some(transport) = transport else { return Err(why(checks)) };
    let (checks, greeted) = greet(route, transport, connected.elapsed).await;
    greeted.ok_or_else(|| why(checks))
}
