//! `top` against a real broker's dashboard, also over TLS.

use std::path::PathBuf;

use hpfeeds::ClientSession;
use hpfeeds_broker::{Broker, Endpoint, Key};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{fails, outcome, private_file, top};
use crate::support::SECRET;

const VIEW: &str = "view0123456789abcdef";

/// A broker with a dashboard, whose sensors are in trouble.
struct Watched {
    // Before the runtime: it is dropped within it.
    broker: Option<Broker>,
    runtime: Runtime,
    folder: TempDir,
}

impl Watched {
    /// With TLS if there is an endpoint for it.
    fn start(folder: TempDir, endpoint: Option<&str>) -> Self {
        let runtime = Runtime::new().unwrap();
        let tokens = private_file(&folder, &format!("view {VIEW}\ntail {}\n", super::TOKEN));
        let key = |ident| Key::new(ident, SECRET).unwrap().publish(["cowrie.*"]).unwrap();
        let builder = Broker::builder().listen("127.0.0.1:0").unwrap();
        let builder = ["sensor-1", "sensor-2", "sensor-3", "sen\u{202e}sor"]
            .into_iter()
            .fold(builder, |all, ident| all.user(key(ident)));
        let builder =
            builder.user(Key::new("collector", SECRET).unwrap().subscribe(["*"]).unwrap()).dashboard_tokens(tokens);
        let builder = match endpoint {
            Some(text) => builder.dashboard_endpoint(text.parse::<Endpoint>().unwrap()),
            None => builder.dashboard("127.0.0.1:0").unwrap(),
        };
        let broker = runtime.block_on(builder.start()).unwrap();
        Self { broker: Some(broker), runtime, folder }
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    fn port(&self) -> u16 {
        self.broker().dashboard_addr().unwrap().port()
    }

    /// A session of an ident.
    fn session(&self, ident: &str) -> ClientSession {
        let addr = self.broker().local_addr();
        self.runtime.block_on(ClientSession::connect(addr, ident, SECRET)).unwrap()
    }

    fn publish(&self, ident: &str, channel: &str, payload: &'static str) -> ClientSession {
        let session = self.session(ident);
        self.runtime.block_on(async {
            session.publish(channel, payload).await.unwrap();
            session.flush().await.unwrap();
        });
        session
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn sensors_of_a_real_broker_have_their_states() {
    let watched = Watched::start(TempDir::new().unwrap(), None);
    let _one = watched.publish("sensor-1", "cowrie.sessions", "{}");
    let mut gone = watched.publish("sensor-2", "cowrie.sessions", "{}");
    watched.runtime.block_on(gone.close()).unwrap();
    let url = format!("http://127.0.0.1:{}/#token={VIEW}", watched.port());
    let found = |args: &[&str]| {
        let (code, stdout, stderr) = outcome(&mut top(&[&["--url", &url], args].concat()));
        assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
        stdout
    };
    let text = found(&[]);
    assert!(text.contains("sensors 1 gone  0 silent  0 flood  3 never  1 learning  0 ok\n"), "{text}");
    assert!(text.contains("copies  0 = 0 delivered + 0 queued + 0 dropped + 0 cut off\n"), "{text}");
    let order: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().next()).skip_while(|word| *word != "STATE").collect();
    assert_eq!(order, ["STATE", "gone", "never", "never", "never", "learning"], "{text}");
    assert!(text.contains(r"sen\u{202e}sor"), "{text}");
    let text = found(&["--state", "never", "--filter", "SENSOR-3"]);
    assert!(text.lines().last().unwrap().starts_with("never  -      sensor-3"), "{text}");
    let text = found(&["--show", "channels", "--sort", "-messages"]);
    assert!(text.contains("cowrie.sessions         2"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&found(&["--json"])).unwrap();
    assert_eq!(json["sensors"]["rows"][0]["state"], "gone");
    let (code, _, stderr) = outcome(&mut top(&["--url", &url, "--strict"]));
    assert_eq!((code, &*stderr), (Some(1), "hpfeeds: 1 sensor gone, silent or flooding\n"));
    let wrong = format!("http://127.0.0.1:{}/#token=wrong", watched.port());
    fails(&mut top(&["--url", &wrong]), 3, "does not take this token");
    fails(&mut top(&["--url", &url, "--sort", "nonsense"]), 1, "does not know what is asked for: sort");
}

#[test]
fn refusals_of_a_real_broker_say_what_mends_them() {
    let watched = Watched::start(TempDir::new().unwrap(), None);
    let session = watched.session("sensor-1");
    watched.runtime.block_on(async {
        session.publish("dionaea.capture", "x").await.unwrap();
        session.flush().await.unwrap();
    });
    let addr = watched.broker().local_addr();
    for (ident, secret) in [("sensor-2", "wrong"), ("stranger", "x")] {
        watched.runtime.block_on(ClientSession::connect(addr, ident, secret)).unwrap_err();
    }
    let url = format!("http://127.0.0.1:{}/#token={VIEW}", watched.port());
    let (code, text, _) = outcome(&mut top(&["--url", &url, "--show", "refused"]));
    assert_eq!(code, Some(0));
    for line in [
        "    on the broker: hpfeeds-broker keys set sensor-1 --add-publish=dionaea.capture",
        "    on the broker: hpfeeds-broker keys set sensor-2 --new-secret --grace=1d, and give the sensor the one that it \
         prints",
        "    on the broker: hpfeeds-broker keys add stranger, if it is yours",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn a_dashboard_over_tls_is_trusted_by_the_options_of_tls() {
    let folder = TempDir::new().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let endpoint = format!("tls:interface=127.0.0.1:port=0:key={}:cert={}", key_file.display(), cert_file.display());
    let watched = Watched::start(folder, Some(&endpoint));
    let url = |scheme: &str, host: &str| format!("{scheme}://{host}:{}/#token={VIEW}", watched.port());
    let trust = watched.file("cert.pem");
    let trust = trust.to_str().unwrap();
    let (code, text, stderr) = outcome(&mut top(&["--url", &url("https", "localhost"), "--tlscert", trust]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(text.contains("never"), "{text}");
    let named = ["--url", &url("https", "127.0.0.1"), "--tlscert", trust, "--tls-name", "localhost"];
    assert_eq!(outcome(&mut top(&named)).0, Some(0));
    fails(&mut top(&named[..4]), 1, "not for 127.0.0.1: give a name that it has in --url");
    fails(&mut top(&["--url", &url("https", "localhost")]), 1, "is signed by none that is trusted");
    fails(&mut top(&["--url", &url("http", "127.0.0.1")]), 1, "TLS answers at 127.0.0.1:");
    fails(&mut top(&["--url", &url("https", "localhost"), "--tlscert", "/nonexistent"]), 2, "/nonexistent");
}
