//! A dashboard that answers each request as a test says, on real sockets.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// The head of a request: its first line, then its headers in lower case.
pub(super) type Head = Vec<String>;

/// A server, whose thread ends with the test program.
pub(super) struct Dashboard {
    port: u16,
    pub(super) requests: Arc<Mutex<Vec<Head>>>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl Dashboard {
    /// `answer` writes the answer to a request; a connection that it returns `false` for is closed.
    pub(super) fn start(answer: impl Fn(&Head, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dashboard =
            Self { port: listener.local_addr().unwrap().port(), requests: Arc::default(), connections: Arc::default() };
        let (requests, connections, answer) =
            (dashboard.requests.clone(), dashboard.connections.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answer) = (requests.clone(), answer.clone());
                thread::spawn(move || serve(stream, &requests, &*answer));
            }
        });
        dashboard
    }

    /// Answers everything with this status, type and body.
    pub(super) fn of(status: &'static str, kind: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::start(move |_, stream| respond(stream, status, kind, &body))
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The first lines of all requests.
    pub(super) fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|head| head[0].clone()).collect()
    }
}

/// Writes a whole answer. Whether the connection can go on.
pub(super) fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &str) -> bool {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_ok()
}

fn serve(
    mut stream: TcpStream,
    requests: &Mutex<Vec<Head>>,
    answer: &(dyn Fn(&Head, &mut TcpStream) -> bool + Send + Sync),
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = Head::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(1..) => {}
                Ok(0) => return,
                // No HTTP.
                Err(_) => {
                    respond(&mut stream, "400 Bad Request", "text/plain", "");
                    return;
                }
            }
            match line.trim_end() {
                "" => break,
                line if head.is_empty() => head.push(line.to_owned()),
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        requests.lock().unwrap().push(head.clone());
        if !answer(&head, &mut stream) {
            return;
        }
    }
}
