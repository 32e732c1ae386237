//! The strings that say where a broker listens and where a session connects to: none makes us panic, and what can be
//! read is written as something that reads the same.
//!
//! Input: the string.

use hpfeeds::BrokerAddr;
use hpfeeds_broker::Endpoint;

pub fn run(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    for endpoint in [text.parse::<Endpoint>(), Endpoint::bind(text)] {
        match endpoint {
            Ok(endpoint) => {
                let shown = endpoint.to_string();
                let again = shown.parse::<Endpoint>();
                assert_eq!(again.as_ref(), Ok(&endpoint), "{text:?} is shown as {shown:?}");
                assert_eq!(again.map(|again| again.to_string()), Ok(shown));
            }
            Err(error) => one_line(&error.to_string()),
        }
    }
    match text.parse::<BrokerAddr>() {
        Ok(addr) => {
            let shown = addr.to_string();
            let again = shown.parse::<BrokerAddr>();
            assert_eq!(again.ok(), Some(addr), "{text:?} is shown as {shown:?}");
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// An error as it stands in a log or terminal: one line, whatever the input was.
pub(crate) fn one_line(error: &str) {
    assert!(!error.is_empty());
    assert!(!error.contains(|char: char| char.is_control()), "{error:?} is not one line");
}
