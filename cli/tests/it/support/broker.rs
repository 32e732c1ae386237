//! The embedded broker that tests run the tool against.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::StreamExt as _;
use hpfeeds::{ClientSession, Message};
use hpfeeds_broker::{Broker, Key};
use tokio::{runtime::Runtime, time::timeout};

use super::{Running, SECRET, SOON, bare_tool, tool};

/// A broker in this process. `sensor` may publish everywhere but to `forbidden`, `collector` may
/// subscribe everywhere but to it; `dev` may do everything.
pub(crate) struct TestBroker {
    // Before the runtime: it is dropped within it.
    broker: Option<Broker>,
    addr: SocketAddr,
    max_message: u32,
    runtime: Runtime,
}

const CHANNELS: [&str; 3] = ["events", "files", "odd.*"];

impl TestBroker {
    pub(crate) fn start() -> Self {
        Self::with_max_message(1 << 20)
    }

    pub(crate) fn with_max_message(max_message: u32) -> Self {
        let runtime = Runtime::new().unwrap();
        let broker = runtime.block_on(start("127.0.0.1:0", max_message));
        Self { addr: broker.local_addr(), broker: Some(broker), max_message, runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Closes every connection and the port.
    pub(crate) fn stop(&mut self) {
        if let Some(broker) = self.broker.take() {
            self.runtime.block_on(broker.shutdown());
        }
    }

    pub(crate) fn start_again(&mut self) {
        self.stop();
        self.broker = Some(self.runtime.block_on(start(&self.addr.to_string(), self.max_message)));
    }

    /// The tool with an action that is to be run as `sensor`.
    pub(crate) fn sensor(&self, action: &str) -> assert_cmd::Command {
        let mut command = tool();
        command.args([action, "--port", &self.port().to_string(), "--ident", "sensor", "--secret", SECRET]);
        command
    }

    /// `hpfeeds subscribe` as `collector`, not started yet.
    pub(crate) fn subscriber(&self, args: &[&str]) -> std::process::Command {
        let mut command = bare_tool();
        command.args(["subscribe", "--port", &self.port().to_string(), "--ident", "collector", "--secret", SECRET]);
        command.args(args);
        command
    }

    /// `hpfeeds subscribe` to `events`, from the moment on that it gets what is published.
    pub(crate) fn subscribed(&self, args: &[&str]) -> Running {
        let mut command = self.subscriber(args);
        let tool = Running::start(command.args(["-c", "events"]));
        tool.wait_for_stderr("subscribed to events");
        tool
    }

    /// A peer that has subscribed: what is published from now on reaches it.
    pub(crate) fn listen(&self, channels: &[&str]) -> Peer<'_> {
        let session = self.runtime.block_on(async {
            let mut session = ClientSession::connect(self.addr, "dev", "dev").await.unwrap();
            for channel in channels {
                session.subscribe(channel).unwrap();
            }
            // The broker acts in order: with this message, all subscriptions are in place.
            session.subscribe("marker").unwrap();
            session.publish("marker", "").await.unwrap();
            timeout(SOON, session.next()).await.expect("no marker").unwrap();
            session
        });
        Peer { broker: self, session }
    }

    /// Publishes as `ident` and waits until the broker has routed it.
    pub(crate) fn publish_as<P: Into<Bytes>>(&self, ident: &str, channel: &str, payloads: impl IntoIterator<Item = P>) {
        self.runtime.block_on(async {
            let secret = if ident == "dev" { "dev" } else { SECRET };
            let mut session = ClientSession::connect(self.addr, ident, secret).await.unwrap();
            for payload in payloads {
                session.publish(channel, payload).await.unwrap();
            }
            session.close().await.unwrap();
        });
    }

    pub(crate) fn publish<P: Into<Bytes>>(&self, payloads: impl IntoIterator<Item = P>) {
        self.publish_as("sensor", "events", payloads);
    }
}

async fn start(addr: &str, max_message: u32) -> Broker {
    let key = |ident| Key::new(ident, SECRET).unwrap().publish(CHANNELS).unwrap();
    Broker::dev_builder()
        .listen(addr)
        .unwrap()
        .max_message(max_message)
        .user(key("sensor"))
        .user(key("-sensor"))
        .user(key("../../sensor"))
        .user(Key::new("collector", SECRET).unwrap().subscribe(CHANNELS).unwrap())
        .start()
        .await
        .unwrap()
}

pub(crate) struct Peer<'a> {
    broker: &'a TestBroker,
    session: ClientSession,
}

impl Peer<'_> {
    pub(crate) fn next(&mut self) -> Message {
        let next = async { timeout(SOON, self.session.next()).await };
        self.broker.runtime.block_on(next).expect("nothing arrived").expect("the session ended")
    }

    /// The next messages, up to the one that this peer itself now publishes.
    pub(crate) fn all(&mut self) -> Vec<Message> {
        self.broker.runtime.block_on(self.session.publish("marker", "")).unwrap();
        let mut messages = Vec::new();
        loop {
            let message = self.next();
            if message.1 == "marker" {
                return messages;
            }
            messages.push(message);
        }
    }

    pub(crate) fn payloads(&mut self) -> Vec<Bytes> {
        self.all().into_iter().map(|(_, _, payload)| payload).collect()
    }
}
