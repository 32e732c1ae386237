//! JSON payloads: publishing values, and reading them from what was received.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    error::{Cause, Error, Told},
    publisher::Publisher,
    session::ClientSession,
};
use crate::visible::acts_on_a_terminal;

impl Publisher {
    /// Publishes a value as JSON, on one line, as [`publish`](Self::publish) does.
    ///
    /// The value is written before the first poll, so the future does not borrow it. Fails as `publish`
    /// does, and with an error that [`is_json`](Error::is_json) when the value cannot be written, such
    /// as a map whose keys are no strings. Cancel safe: a dropped future has queued nothing.
    pub fn publish_json<'a, C, T>(
        &'a self,
        channel: C,
        value: &T,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, C, T>
    where
        C: AsRef<str>,
        T: Serialize + ?Sized,
    {
        let payload = encoded(value);
        async move { self.publish(channel, payload?).await }
    }
}

impl ClientSession {
    /// See [`Publisher::publish_json`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// use hpfeeds::{ClientSession, JsonPayload as _};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Login<'a> {
    ///     user: &'a str,
    ///     port: u16,
    /// }
    ///
    /// let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
    /// session.subscribe("logins")?;
    /// session.publish_json("logins", &Login { user: "root", port: 22 }).await?;
    /// let (_, _, payload) = session.read().await.expect("a message");
    /// let login: Login<'_> = payload.json()?;
    /// assert_eq!((login.user, login.port), ("root", 22));
    /// # Ok(()) }
    /// ```
    pub fn publish_json<'a, C, T>(
        &'a self,
        channel: C,
        value: &T,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, C, T>
    where
        C: AsRef<str>,
        T: Serialize + ?Sized,
    {
        let payload = encoded(value);
        async move { self.publish(channel, payload?).await }
    }
}

fn encoded(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|fault| Error::json("the value cannot be written as JSON", &fault))
}

/// Payloads that are read as JSON.
pub trait JsonPayload {
    /// Reads a value, which may borrow strings of the payload.
    ///
    /// Whatever is in a payload, an attacker may have written: it is read to a depth of 128, and the
    /// error ([`is_json`](Error::is_json)) names the place and has no control characters in it.
    fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error>;
}

impl JsonPayload for [u8] {
    fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(self)
            .map_err(|fault| Error::json("the payload is not the JSON that is expected", &fault))
    }
}

impl JsonPayload for Bytes {
    fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self[..].json()
    }
}

/// The longest text of a fault, in characters.
const LONGEST: usize = 300;

impl Error {
    fn json(what: &str, fault: &serde_json::Error) -> Self {
        // It may name a field that an attacker has chosen.
        let shown = fault.to_string();
        let safe = |char: char| if acts_on_a_terminal(char) { '\u{fffd}' } else { char };
        let text = shown.chars().map(safe).take(LONGEST).collect::<String>();
        Self::new(Cause::Told { kind: Told::Json, text: format!("{what}: {text}") })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Login<'a> {
        user: &'a str,
    }

    #[test]
    fn a_payload_is_read_as_the_type_that_is_expected() {
        let payload = Bytes::from_static(br#"{"user":"root"}"#);
        assert_eq!(payload.json::<Login<'_>>().unwrap(), Login { user: "root" });
        assert_eq!(b"[1,2]".json::<[u8; 2]>().unwrap(), [1, 2]);
        assert_eq!(payload.json::<BTreeMap<String, serde_json::Value>>().unwrap()["user"], "root");
    }

    #[test]
    fn a_fault_names_its_place_and_shows_no_control_characters() {
        for (payload, text) in [
            (&b"{\"user\":7}"[..], "line 1 column 9"),
            (b"", "line 1 column 0"),
            (b"{\"\\u001b[31m\\u202e\":1}", "unknown field `\u{fffd}[31m\u{fffd}`"),
            (b"\xff", "line 1"),
        ] {
            let error = payload.json::<Login<'_>>().unwrap_err();
            let shown = error.to_string();
            assert!(error.is_json() && !error.is_network() && shown.contains(text), "{shown}");
            assert!(!shown.contains(char::is_control), "{shown}");
        }
        let deep = vec![b'['; 100_000];
        assert!(deep.json::<serde_json::Value>().unwrap_err().is_json());
        let long = format!("{{\"{}\":1}}", "x".repeat(1 << 20));
        assert!(long.as_bytes().json::<Login<'_>>().unwrap_err().to_string().len() < 2 * LONGEST);
    }

    #[tokio::test]
    async fn a_value_that_is_no_json_is_not_queued() {
        let session = ClientSession::builder("127.0.0.1:1", "me", "secret").start().unwrap();
        let publisher = session.publisher();
        let error = publisher.publish_json("a", &BTreeMap::from([((1, 2), 3)])).await.unwrap_err();
        assert!(error.is_json(), "{error}");
        publisher.publish_json("a", "text").await.unwrap();
        session.publish_json("a", &[1, 2][..]).await.unwrap();
        assert_eq!(session.stats().queued, 2);
    }
}
