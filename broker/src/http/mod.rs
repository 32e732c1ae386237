//! The HTTP server of the exporter, with a listener of its own.
//!
//! A connection carries one request. Slow clients are cut off, and at the limit of connections the
//! oldest gives way to a new one: a client that holds connections open keeps no scraper out.

#[cfg(feature = "dashboard")]
pub(crate) mod dashboard;

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

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

use crate::{error::StartError, metrics::text::Exposition, util::accept_backoff::AcceptBackoff};

/// The most open connections. An answer to `/metrics` is held in memory as text: 1.5 kB for each
/// channel that an ident publishes to, so at most 15 MB.
const MAX_CONNECTIONS: usize = 8;

/// The most renderings at once. A rendering runs to its end although its connection is cut off:
/// without this bound, clients that come and go would make ever more of them.
const MAX_RENDERING: usize = 2;

/// How long a request may take to arrive, and how long request and answer together.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The functions that answer requests. They are called on any thread.
pub(crate) struct Handlers {
    /// Renders all metrics, which may take some 10 ms; `None` once the broker has stopped.
    pub(crate) render: Box<dyn Fn(Exposition) -> Option<String> + Send + Sync>,
    /// Says why the broker is not ready, if so.
    pub(crate) readiness: Box<dyn Fn() -> Result<(), &'static str> + Send + Sync>,
}

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    addr: SocketAddr,
    stopped: CancellationToken,
    task: TaskTracker,
}

impl Exporter {
    pub(crate) fn start(listener: TcpListener, handlers: Handlers) -> Result<Self, StartError> {
        let addr = listener.local_addr().map_err(StartError::Listener)?;
        let exporter = Self { addr, stopped: CancellationToken::new(), task: TaskTracker::new() };
        exporter.task.spawn(exporter.stopped.clone().run_until_cancelled_owned(serve(listener, Arc::new(handlers))));
        Ok(exporter)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts all connections, and returns once the listener is closed.
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

/// Accepts connections for ever. When the future is dropped, its connections end.
async fn serve(listener: TcpListener, handlers: Arc<Handlers>) {
    let mut connections = JoinSet::new();
    let rendering = Arc::new(Semaphore::new(MAX_RENDERING));
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
                    order.push_back(connections.spawn(connection(stream, peer, handlers.clone(), rendering.clone())));
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

async fn connection(stream: TcpStream, peer: SocketAddr, handlers: Arc<Handlers>, rendering: Arc<Semaphore>) {
    let service = service_fn(|request| answer(request, &handlers, &rendering));
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
    handlers: &Arc<Handlers>,
    rendering: &Arc<Semaphore>,
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
        "/metrics" => scrape(exposition(&request), handlers, rendering).await,
        "/healthz" => body(StatusCode::OK, "application/json; charset=utf-8", "{}"),
        _ => match (handlers.readiness)() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
    })
}

async fn scrape(exposition: Exposition, handlers: &Arc<Handlers>, rendering: &Arc<Semaphore>) -> Answer {
    // The semaphore is never closed.
    let permit = rendering.clone().acquire_owned().await;
    let handlers = handlers.clone();
    let render = move || {
        let _permit = permit;
        (handlers.render)(exposition)
    };
    // Ten thousand channels take some 40 ms, which the runtime's tasks must not wait for.
    match tokio::task::spawn_blocking(render).await {
        Ok(Some(metrics)) => body(StatusCode::OK, exposition.content_type(), metrics),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "stopped\n"),
    }
}

/// The format that the request accepts: Prometheus asks for `OpenMetrics`, others for nothing.
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

fn text(status: StatusCode, content: impl Into<Bytes>) -> Answer {
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
    use std::sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn clients_that_come_and_go_cause_few_renderings() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let renderings = Arc::new(AtomicUsize::new(0));
            let count = renderings.clone();
            let render = move |_| {
                count.fetch_add(1, SeqCst);
                Some("metrics".to_owned())
            };
            let handlers = Handlers { render: Box::new(render), readiness: Box::new(|| Ok(())) };
            let exporter = Exporter::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), handlers).unwrap();
            // All renderings wait behind this one task.
            let (done, wait) = mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || wait.recv());
            let mut clients = VecDeque::new();
            for _ in 0..100 {
                let mut client = TcpStream::connect(exporter.addr()).await.unwrap();
                client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                clients.push_back(client);
                if clients.len() > MAX_CONNECTIONS {
                    // The oldest connection has been cut in favour of the newest.
                    let _ = clients.pop_front().unwrap().read(&mut [0; 1]).await;
                }
            }
            drop(done);
            // The renderings of cut connections, and then those of the open ones.
            for mut client in clients {
                let mut text = String::new();
                client.read_to_string(&mut text).await.unwrap();
                assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nmetrics"), "{text}");
            }
            let renderings = renderings.load(SeqCst);
            assert!((MAX_CONNECTIONS..=MAX_CONNECTIONS + MAX_RENDERING).contains(&renderings), "{renderings}");
        });
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        let handlers = Handlers { render: Box::new(|_| None), readiness: Box::new(|| Err("not listening")) };
        let exporter = Exporter::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), handlers).unwrap();
        for (path, expected) in [("/readyz", "not listening\n"), ("/metrics", "stopped\n")] {
            let mut client = TcpStream::connect(exporter.addr()).await.unwrap();
            client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 503") && text.ends_with(expected), "{text}");
        }
        exporter.stop().await;
    }
}
