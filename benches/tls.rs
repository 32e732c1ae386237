//! The cost of TLS in the broker: processor time per delivered message beside a relay that decrypts
//! and encrypts the same bytes and does not look at them, and the memory of an idle connection.
//!
//! `cargo build --release -p hpfeeds-broker && cargo bench --features tls --bench tls`, on a quiet
//! machine. Arguments: `--rounds N` (default 7), `--idle N` (connections; default 5000, 0 leaves
//! that out). `HPFEEDS_BROKER` names another broker than `target/release/hpfeeds-broker`.

/// It reads the processor time of other processes from `/proc`.
#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this benchmark needs Linux");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((mode, rest)) if mode == "relay" => linux::relay(rest),
        // `cargo test --all-targets` runs benchmarks too, without it.
        _ if !args.iter().any(|arg| arg == "--bench") => Ok(()),
        _ => linux::bench(&args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(target_os = "linux")]
#[path = "support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        env,
        error::Error,
        fs,
        io::{self, BufRead as _, BufReader, Read as _, Write as _},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
        sync::Arc,
        thread,
        time::{Duration, Instant},
    };

    use hpfeeds::wire::Frame;
    use rcgen::{CertificateParams, KeyPair};
    use tokio_rustls::rustls::{
        ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection, SideData,
        StreamOwned,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    };

    use crate::support::{
        handshake::{authenticate, encode, read_frame},
        median,
        process::Process,
    };

    type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
    type Client = StreamOwned<ClientConnection, TcpStream>;

    const IDENT: &str = "bench";

    /// How long a round sends.
    const SENDING: Duration = Duration::from_millis(1200);

    /// How long a server may take until it has nothing more to do.
    const SETTLING: Duration = Duration::from_secs(10);

    /// How many bytes are sent at once, about.
    const PATTERN: usize = 512 * 1024;

    pub(super) fn bench(args: &[String]) -> Result<()> {
        let number = |name: &str, default: usize| {
            let value = args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
            value.map_or(Ok(default), |value| value.parse())
        };
        let (rounds, idle) = (number("--rounds", 7)?, number("--idle", 5000)?);
        let files = Files::new()?;
        for (name, size) in [("256 B", 256), ("64 KiB", 65536)] {
            let mut ratios = Vec::new();
            let mut all = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                let costs = [Kind::Relay, Kind::Broker].map(|kind| throughput(kind, &files, size));
                let [relay, broker] = costs;
                let (relay, broker) = (relay?, broker?);
                ratios.push(broker / relay);
                all[0].push(relay);
                all[1].push(broker);
            }
            let [relay, broker] = all.map(median_or_nan);
            println!(
                "1 → 1, {name}: CPU ns per message: relay {relay:.0}, broker {broker:.0}; ratio {:.2}",
                median_or_nan(ratios)
            );
        }
        if idle > 0 {
            for tls in [false, true] {
                let (cpu, memory) = connections(&files, tls, idle)?;
                let name = if tls { "TLS" } else { "plain" };
                println!("{idle} idle connections, {name}: {memory:.2} KiB each; {cpu:.0} CPU µs to connect");
            }
        }
        Ok(())
    }

    fn median_or_nan(figures: Vec<f64>) -> f64 {
        median(figures).unwrap_or(f64::NAN)
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Relay,
        Broker,
    }

    /// Processor nanoseconds of the server per message.
    #[allow(clippy::cast_precision_loss, reason = "far more digits are left than are printed")]
    fn throughput(kind: Kind, files: &Files, size: usize) -> Result<f64> {
        let server = Server::start(kind, files, true)?;
        let mut reader = server.connect(1, files)?;
        let mut writer = server.connect(0, files)?;
        if kind == Kind::Broker {
            authenticate(&mut reader, IDENT, IDENT)?;
            subscribe(&mut reader)?;
            authenticate(&mut writer, IDENT, IDENT)?;
        }
        let frame = publish("bench", size)?;
        let count = (PATTERN / frame.len()).max(1);
        let pattern = Arc::new(frame.repeat(count));
        // The first goes through before anything counts.
        writer.write_all(&frame)?;
        let mut first = vec![0; frame.len()];
        reader.read_exact(&mut first)?;
        let before = server.process.cpu()?;
        let sent = {
            let pattern = pattern.clone();
            thread::spawn(move || -> Result<(usize, Client)> {
                let (end, mut batches) = (Instant::now() + SENDING, 0);
                while Instant::now() < end {
                    writer.write_all(&pattern)?;
                    batches += 1;
                }
                writer.flush()?;
                Ok((batches, writer))
            })
        };
        // It does not know how much will come: it asks once nothing comes any more.
        reader.sock.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buffer = vec![0; 256 * 1024];
        let mut received = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    check(&buffer[..n], &pattern, received)?;
                    received += n;
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock && sent.is_finished() => break,
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        let used = server.process.cpu_since(before)?;
        let (batches, _writer) = sent.join().map_err(|_| "the publisher panicked")??;
        if received != batches * pattern.len() {
            return Err(format!("{received} bytes of {} arrived", batches * pattern.len()).into());
        }
        Ok(used as f64 / (batches * count) as f64)
    }

    fn check(mut bytes: &[u8], pattern: &[u8], received: usize) -> Result<()> {
        let mut at = received % pattern.len();
        while !bytes.is_empty() {
            let n = bytes.len().min(pattern.len() - at);
            if bytes[..n] != pattern[at..at + n] {
                return Err("other bytes arrived than were sent".into());
            }
            (bytes, at) = (&bytes[n..], 0);
        }
        Ok(())
    }

    /// Processor microseconds to connect, and resident KiB of each connection.
    #[allow(clippy::cast_precision_loss, reason = "far more digits are left than are printed")]
    fn connections(files: &Files, tls: bool, count: usize) -> Result<(f64, f64)> {
        let server = Server::start(Kind::Broker, files, tls)?;
        let open = |count: usize| (0..count).map(|_| server.idle(files, tls)).collect::<Result<Vec<Box<dyn Send>>>>();
        // The first few pay for what is allocated once.
        let _first = open(300)?;
        server.process.settle(SETTLING)?;
        let (cpu, memory) = (server.process.cpu()?, server.process.memory()?);
        let _all = open(count)?;
        server.process.settle(SETTLING)?;
        let cpu = server.process.cpu_since(cpu)? as f64 / 1000.0 / count as f64;
        Ok((cpu, server.process.memory()?.saturating_sub(memory) as f64 / count as f64))
    }

    struct Server {
        child: Child,
        process: Process,
        addrs: Vec<SocketAddr>,
    }

    impl Server {
        fn start(kind: Kind, files: &Files, tls: bool) -> Result<Self> {
            // It ends when we do, however that is.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).stdout(Stdio::piped()).stderr(Stdio::null());
            if kind == Kind::Relay {
                command.arg(env::current_exe()?).arg("relay").args([files.path("cert.pem"), files.path("key.pem")]);
            } else {
                let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
                let files = if tls { format!(":cert={}:key={}", cert.display(), key.display()) } else { String::new() };
                let kind = if tls { "tls" } else { "tcp" };
                command.arg(broker()).args(["--auth", "env", "-e"]);
                command.arg(format!("{kind}:interface=127.0.0.1:port=0{files}"));
                let fields = [("SECRET", IDENT), ("PUBCHANS", "bench,own"), ("SUBCHANS", "bench,own")];
                command.envs(fields.map(|(field, value)| (format!("HPFEEDS_{}_{field}", IDENT.to_uppercase()), value)));
            }
            let mut child = command.spawn()?;
            let stdout = child.stdout.take().ok_or("no stdout")?;
            let mut lines = BufReader::new(stdout).lines();
            let mut addrs = Vec::new();
            for _ in 0..if kind == Kind::Relay { 2 } else { 1 } {
                let line = lines.next().ok_or("the server did not start")??;
                let addr = line.strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
                addrs.push(addr.ok_or(line)?);
            }
            let process = Process::of(&child)?;
            Ok(Self { child, process, addrs })
        }

        fn tcp(&self, which: usize) -> Result<TcpStream> {
            let tcp = TcpStream::connect(self.addrs[which.min(self.addrs.len() - 1)])?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        }

        /// The publisher is the first that a relay knows, the subscriber the second.
        fn connect(&self, which: usize, files: &Files) -> Result<Client> {
            let name = ServerName::try_from("localhost")?;
            let client = ClientConnection::new(files.client.clone(), name)?;
            Ok(StreamOwned::new(client, self.tcp(which)?))
        }

        fn idle(&self, files: &Files, tls: bool) -> Result<Box<dyn Send>> {
            if tls {
                let mut client = self.connect(0, files)?;
                authenticate(&mut client, IDENT, IDENT)?;
                // Only the socket must stay: what the client needs is no concern here.
                return Ok(Box::new(client.sock));
            }
            let mut tcp = self.tcp(0)?;
            authenticate(&mut tcp, IDENT, IDENT)?;
            Ok(Box::new(tcp))
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn broker() -> PathBuf {
        let target = || env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        env::var_os("HPFEEDS_BROKER").map_or_else(|| target().join("release/hpfeeds-broker"), PathBuf::from)
    }

    /// A certificate for localhost, and a client that trusts it.
    struct Files {
        folder: tempfile::TempDir,
        client: Arc<ClientConfig>,
    }

    impl Files {
        fn new() -> Result<Self> {
            let folder = tempfile::TempDir::new()?;
            let key = KeyPair::generate()?;
            let params = CertificateParams::new(["localhost".to_owned()])?;
            let cert = params.self_signed(&key)?;
            fs::write(folder.path().join("cert.pem"), cert.pem())?;
            fs::write(folder.path().join("key.pem"), key.serialize_pem())?;
            let mut roots = RootCertStore::empty();
            roots.add(cert.der().clone())?;
            let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            Ok(Self { folder, client: Arc::new(client) })
        }

        fn path(&self, file: &str) -> PathBuf {
            self.folder.path().join(file)
        }
    }

    /// Subscribes, and returns once the broker has seen to it: it passes on what is published
    /// behind that.
    fn subscribe(stream: &mut (impl io::Read + io::Write)) -> Result<()> {
        let mut bytes = Vec::new();
        for channel in ["bench", "own"] {
            bytes.extend(encode(&Frame::Subscribe { ident: IDENT.parse()?, channel: channel.parse()? })?);
        }
        bytes.extend(publish("own", 1)?);
        stream.write_all(&bytes)?;
        stream.flush()?;
        read_frame(stream)?;
        Ok(())
    }

    fn publish(channel: &str, size: usize) -> Result<Vec<u8>> {
        let payload: Vec<u8> = (0..=255).cycle().take(size).collect();
        let frame = Frame::Publish { ident: IDENT.parse()?, channel: channel.parse()?, payload: payload.into() };
        Ok(encode(&frame)?)
    }

    /// The bound: decrypts what the publisher sends and encrypts it for the subscriber, and copies
    /// nothing in between.
    pub(super) fn relay(args: &[String]) -> Result<()> {
        let [cert, key] = args else {
            return Err("this is run by the benchmark itself".into());
        };
        let cert = CertificateDer::from_pem_file(Path::new(cert))?;
        let key = PrivateKeyDer::from_pem_file(Path::new(key))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)?;
        let config = Arc::new(config);
        let listeners = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        for listener in &listeners {
            println!("listening on {}", listener.local_addr()?);
        }
        let accept = |listener: &TcpListener| -> Result<(ServerConnection, TcpStream)> {
            let (mut tcp, _) = listener.accept()?;
            tcp.set_nodelay(true)?;
            let mut tls = ServerConnection::new(config.clone())?;
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp)?;
            }
            Ok((tls, tcp))
        };
        let [publishers, subscribers] = &listeners;
        let subscriber = thread::scope(|scope| {
            // Either may come first.
            let subscriber = scope.spawn(|| accept(subscribers));
            let publisher = accept(publishers)?;
            Ok::<_, Box<dyn Error + Send + Sync>>((publisher, subscriber.join().map_err(|_| "panicked")??))
        })?;
        let ((mut from, mut source), (mut to, mut sink)) = subscriber;
        to.set_buffer_limit(None);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // The first bytes have come along with the handshake.
            if forward(&mut from, &mut to)? {
                return Ok(());
            }
            flush(&mut to, &mut sink)?;
            let n = source.read(&mut buffer)?;
            let mut encrypted = &buffer[..n];
            if n == 0 {
                return Ok(());
            }
            while !encrypted.is_empty() {
                from.read_tls(&mut encrypted)?;
                from.process_new_packets()?;
                if forward(&mut from, &mut to)? {
                    return flush(&mut to, &mut sink);
                }
            }
        }
    }

    /// Whether the publisher has ended.
    fn forward(from: &mut ServerConnection, to: &mut ServerConnection) -> Result<bool> {
        let mut reader = from.reader();
        loop {
            let n = match reader.fill_buf() {
                Ok([]) => return Ok(true),
                Ok(chunk) => to.writer().write(chunk)?,
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(cause) => return Err(cause.into()),
            };
            reader.consume(n);
        }
    }

    fn flush<Data: SideData>(tls: &mut ConnectionCommon<Data>, tcp: &mut TcpStream) -> Result<()> {
        while tls.wants_write() {
            tls.write_tls(tcp)?;
        }
        Ok(())
    }
}
