//! The HTTP client: one connection to a dashboard, kept between requests, with deadlines and bounded
//! answers.

use std::{io, time::Duration};

use bytes::Bytes;
use hpfeeds::{TlsOptions, Transport, tls_probe, wire::OtherProtocol};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinHandle,
    time::timeout,
};

use super::{
    address::{Address, Token},
    fault::Fault,
};

/// How long the connection may take, over all addresses, and TLS over it.
const CONNECTING: Duration = Duration::from_secs(5);

/// How long one of several addresses may take.
const ADDRESS: Duration = Duration::from_secs(2);

/// The bytes of an error's body that are looked at.
const ERROR_TEXT: usize = 4096;

/// The bytes that are read at once, and the longest head of an answer.
const BUFFER: usize = 64 * 1024;

const SOFTWARE: &str = concat!("hpfeeds-top/", env!("CARGO_PKG_VERSION"));

/// A dashboard that is asked again and again.
pub(super) struct Client {
    pub(super) address: Address,
    authorization: HeaderValue,
    tls: Option<TlsOptions>,
    /// How long an answer may take to its end, after the connection.
    wait: Duration,
    connection: Option<Connection>,
}

/// A connection, whose task ends with it.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer that goes on; its connection ends with it.
pub(super) struct Stream {
    pub(super) body: Incoming,
    _connection: Connection,
}

impl Client {
    /// `tls`: how to trust the dashboard of an address that begins with `https`; `wait`: how long each
    /// answer may take.
    pub(super) fn new(address: Address, token: &Token, tls: Option<TlsOptions>, wait: Duration) -> Self {
        let mut authorization =
            HeaderValue::from_str(&token.bearer()).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        authorization.set_sensitive(true);
        let tls = address.tls.then(|| tls.unwrap_or_default());
        Self { address, authorization, tls, wait, connection: None }
    }

    /// Another connection to the same dashboard.
    pub(super) fn another(&self) -> Self {
        Self {
            address: self.address.clone(),
            authorization: self.authorization.clone(),
            tls: self.tls.clone(),
            wait: self.wait,
            connection: None,
        }
    }

    /// Asks for JSON, of at most so many bytes. When this is cancelled, the connection ends.
    pub(super) async fn json(&mut self, path: &str, most: usize) -> Result<Bytes, Fault> {
        let (response, connection) = self.ask(path, "application/json", "application/json").await?;
        let reading = timeout(self.wait, Limited::new(response.into_body(), most).collect()).await;
        match reading {
            Err(_elapsed) => Err(Fault::late(&self.address, self.wait)),
            Ok(Err(cause)) => Err(Fault::body(&self.address, &*cause, most)),
            Ok(Ok(body)) => {
                self.connection = Some(connection);
                Ok(body.to_bytes())
            }
        }
    }

    /// Asks for a stream of events.
    pub(super) async fn stream(&mut self, path: &str) -> Result<Stream, Fault> {
        let (response, connection) = self.ask(path, "text/event-stream", "text/event-stream").await?;
        Ok(Stream { body: response.into_body(), _connection: connection })
    }

    /// Asks for something, on the connection that there is or on a new one.
    async fn ask(
        &mut self,
        path: &str,
        accept: &'static str,
        expected: &str,
    ) -> Result<(Response<Incoming>, Connection), Fault> {
        // The server may have closed the old one meanwhile, without having read anything.
        let kept = self.connection.take().filter(|connection| !connection.sender.is_closed());
        if let Some(mut connection) = kept
            && let Ok(Ok(response)) =
                timeout(self.wait, connection.sender.send_request(self.request(path, accept)?)).await
        {
            let response = self.judge(response, expected).await?;
            return Ok((response, connection));
        }
        let mut connection = self.connect().await?;
        let asking = connection.sender.send_request(self.request(path, accept)?);
        match timeout(self.wait, asking).await {
            Err(_elapsed) => Err(Fault::late(&self.address, self.wait)),
            Ok(Err(cause)) => Err(self.tell(&cause).await),
            Ok(Ok(response)) => Ok((self.judge(response, expected).await?, connection)),
        }
    }

    /// Why there is no answer: without TLS, something else may answer there.
    async fn tell(&self, cause: &hyper::Error) -> Fault {
        let may_be_other = cause.is_parse() || cause.is_incomplete_message() || cause.is_canceled();
        if may_be_other
            && self.tls.is_none()
            && let Ok(Ok(tcp)) = timeout(CONNECTING, self.dial()).await
            && let Some(other) = tls_probe::identify(tcp, ADDRESS).await.filter(|other| *other != OtherProtocol::Http)
        {
            return Fault::other(&self.address, other);
        }
        Fault::http(&self.address, cause)
    }

    fn request(&self, path: &str, accept: &'static str) -> Result<Request<Empty<Bytes>>, Fault> {
        let request = Request::get(format!("{}{path}", self.address.path))
            .header(HOST, self.address.broker.to_string())
            .header(USER_AGENT, SOFTWARE)
            .header(ACCEPT, accept)
            .header(AUTHORIZATION, self.authorization.clone())
            .body(Empty::new());
        request.map_err(|cause| Fault::new(format!("cannot ask for {path}: {cause}")))
    }

    /// Lets a success of the expected type pass.
    async fn judge(&self, response: Response<Incoming>, expected: &str) -> Result<Response<Incoming>, Fault> {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let kind = header(CONTENT_TYPE).unwrap_or_default().to_owned();
        if response.status() == StatusCode::OK {
            let is_expected = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(expected));
            if is_expected {
                return Ok(response);
            }
            let kind =
                if kind.is_empty() { "something of no type".to_owned() } else { crate::words::shown(kind.as_bytes()) };
            return Err(Fault::new(format!(
                "what answers at {} is no dashboard of a broker (it sends {kind}): check --url",
                self.address
            )));
        }
        let (status, location) = (response.status(), header(LOCATION).map(str::to_owned));
        let body = timeout(self.wait, Limited::new(response.into_body(), ERROR_TEXT).collect()).await;
        let text = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(Fault::status(&self.address, status, location.as_deref(), &String::from_utf8_lossy(&text)))
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let unreachable = |cause: io::Error| Fault::unreachable(&self.address, &cause);
        let tcp = match timeout(CONNECTING, self.dial()).await {
            Err(_elapsed) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
            Ok(tcp) => tcp.map_err(unreachable)?,
        };
        let is_near = tcp.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
        let transport: Box<dyn Transport> = match &self.tls {
            // As the broker does at its end.
            None if !is_near => return Err(Fault::plain(&self.address)),
            None => Box::new(tcp),
            Some(tls) => {
                let probe = tls.probe(&self.address.broker, tcp, CONNECTING).await;
                let probe =
                    probe.map_err(|cause| Fault { text: cause.to_string(), code: crate::exit::code(&cause) })?;
                probe.outcome.map_err(|fault| Fault::tls(&self.address, &fault))?.transport
            }
        };
        let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(transport));
        let (sender, connection) = handshake.await.map_err(|cause| Fault::http(&self.address, &cause))?;
        let task = tokio::spawn(async move {
            // A fault is told to the request that it happens to.
            drop(connection.await);
        });
        Ok(Connection { sender, task })
    }

    /// Connects to the first address of the host that answers.
    async fn dial(&self) -> io::Result<TcpStream> {
        let broker = &self.address.broker;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host((broker.host(), broker.port())).await? {
            match timeout(ADDRESS, TcpStream::connect(address)).await {
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
                Ok(Err(cause)) => last = cause,
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
            }
        }
        Err(last)
    }
}

/// A value in a query: all but letters, digits and a few signs in percent encoding.
pub(super) fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~,*".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_encoded() {
        assert_eq!(encode("sensor-1,*"), "sensor-1,*");
        assert_eq!(encode("a b&c=d#\u{e9}%\n"), "a%20b%26c%3Dd%23%C3%A9%25%0A");
    }
}
