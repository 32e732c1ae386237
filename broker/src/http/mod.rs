//! The exporter: a small HTTP server with a listener of its own.
//!
//! One request a connection. Whoever is slow is cut off, and at the limit of connections the oldest gives way to a new
//! one, so nobody can keep a scraper out by holding connections open.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    context::BrokerContext,
    error::StartError,
    metrics::{render::render, text::Exposition},
    util::accept_backoff::AcceptBackoff,
};

/// How many connections are held. One that asks for metrics has them in memory as text: 1.5 kB for each channel that an
/// ident publishes to, so at most 15 MB.
const MAX_CONNECTIONS: usize = 8;

/// How many of them print at once. One that is cut off while it prints does so to its end, so that many that come and
/// go would print ever more.
const MAX_PRINTING: usize = 2;

/// How long a request may take to arrive, and everything together.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The server. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    addr: SocketAddr,
    stopped: CancellationToken,
    task: TaskTracker,
}

impl Exporter {
    pub(crate) fn start(listener: TcpListener, context: Arc<BrokerContext>) -> Result<Self, StartError> {
        let addr = listener.local_addr().map_err(StartError::Listener)?;
        let exporter = Self { addr, stopped: CancellationToken::new(), task: TaskTracker::new() };
        exporter.task.spawn(exporter.stopped.clone().run_until_cancelled_owned(serve(listener, context)));
        Ok(exporter)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts all connections, and returns once it no longer listens.
    pub(crate) async fn stop(&self) {
        self.stopped.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// Accepts connections. Nothing ends it but being dropped, and that ends them.
async fn serve(listener: TcpListener, context: Arc<BrokerContext>) {
    let mut connections = JoinSet::new();
    let printing = Arc::new(Semaphore::new(MAX_PRINTING));
    let mut order = VecDeque::<AbortHandle>::new();
    let mut backoff = AcceptBackoff::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    order.retain(|connection| !connection.is_finished());
                    if order.len() == MAX_CONNECTIONS
                        && let Some(oldest) = order.pop_front()
                    {
                        oldest.abort();
                    }
                    order.push_back(connections.spawn(connection(stream, peer, context.clone(), printing.clone())));
                }
                Err(cause) => {
                    if backoff.should_log() {
                        warn!(%cause, "the exporter cannot accept connections");
                    }
                    backoff.wait().await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, context: Arc<BrokerContext>, printing: Arc<Semaphore>) {
    let service = service_fn(|request| answer(request, &context, &printing));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => debug!(%peer, %cause, "the exporter's client went away"),
        Err(_) => debug!(%peer, "the exporter's client is too slow"),
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    request: Request<Incoming>,
    context: &Arc<BrokerContext>,
    printing: &Arc<Semaphore>,
) -> Result<Answer, Infallible> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return Ok(text(StatusCode::NOT_FOUND, "not found: try /metrics, /healthz or /readyz\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    Ok(match path {
        "/metrics" => scrape(exposition(&request), context, printing).await,
        "/healthz" => body(StatusCode::OK, "application/json; charset=utf-8", "{}"),
        _ if context.draining.is_cancelled() => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        _ if !context.metrics.endpoints.all_listening() => text(StatusCode::SERVICE_UNAVAILABLE, "not listening\n"),
        _ => text(StatusCode::OK, "ready\n"),
    })
}

async fn scrape(exposition: Exposition, context: &Arc<BrokerContext>, printing: &Arc<Semaphore>) -> Answer {
    // It is never closed.
    let permit = printing.clone().acquire_owned().await;
    // Ten thousand channels take some time to print: messages do not wait for that.
    let context = Arc::downgrade(context);
    let rendering = move || {
        let _permit = permit;
        Weak::upgrade(&context).map(|context| render(&context.snapshot(), exposition))
    };
    match tokio::task::spawn_blocking(rendering).await {
        Ok(Some(metrics)) => body(StatusCode::OK, exposition.content_type(), metrics),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "stopped\n"),
    }
}

/// Prometheus asks for what it likes best; others get what everybody reads.
fn exposition(request: &Request<Incoming>) -> Exposition {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    let open = kinds.any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        name.eq_ignore_ascii_case("application/openmetrics-text") && parts.all(|part| part != "q=0")
    });
    if open { Exposition::OpenMetrics } else { Exposition::Prometheus }
}

fn text(status: StatusCode, content: &'static str) -> Answer {
    body(status, "text/plain; charset=utf-8", content)
}

fn body(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(content.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::mpsc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{broker::Broker, net::endpoint::Endpoint};

    /// Who asks again and again, and goes, does not make the broker print ever more at once.
    #[test]
    fn few_answers_are_printed_at_once() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let _entered = runtime.enter();
        runtime.block_on(async {
            let local = Endpoint::tcp("127.0.0.1", 0);
            let broker = Broker::dev_builder().endpoint(local.clone()).exporter_endpoint(local).start().await.unwrap();
            let addr = broker.exporter_addr().unwrap();
            // Everything that is to be printed waits behind this.
            let (done, wait) = mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || wait.recv());
            let before = Arc::weak_count(broker.context());
            let mut clients = VecDeque::new();
            for _ in 0..100 {
                let mut client = TcpStream::connect(addr).await.unwrap();
                client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                clients.push_back(client);
                if clients.len() > MAX_CONNECTIONS {
                    // It gave way to this one.
                    let _ = clients.pop_front().unwrap().read(&mut [0; 1]).await;
                }
            }
            let waiting = Arc::weak_count(broker.context()) - before;
            assert!(waiting <= MAX_CONNECTIONS, "{waiting}");
            drop(done);
            let mut text = String::new();
            clients.pop_back().unwrap().read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        });
    }
}
