//! The status of a relay: its figures as a screen for an operator.

use std::fmt::Write as _;

use hpfeeds::wire::extension::Level;

use super::figures::{LinkState, Refusals, UplinkSnapshot};

/// The screen: some lines for each ident, one for each denied channel, and one for messages of all
/// sensors that are not stored.
pub(crate) fn screen(parent: &str, uplinks: &[UplinkSnapshot], not_stored: u64, now_ms: i64) -> String {
    let mut text = format!("parent {parent}\n");
    if not_stored > 0 {
        // Memory takes everything.
        let _ = writeln!(text, "not stored: {not_stored} messages are lost, as the disk did not follow or failed");
    }
    for uplink in uplinks {
        // Memory takes everything.
        let _ = write_uplink(&mut text, uplink, now_ms);
    }
    text
}

fn write_uplink(text: &mut String, uplink: &UplinkSnapshot, now_ms: i64) -> std::fmt::Result {
    let state = match uplink.state {
        LinkState::Connecting => "connecting",
        LinkState::Connected(None) => "connected, confirmed by the end of the stream every 30s",
        LinkState::Connected(Some(level)) if level >= Level::STORED => "connected, the parent stores",
        LinkState::Connected(Some(_)) => "connected, the parent does not store",
        LinkState::Rejected => "the parent refuses the key",
        LinkState::Away => "the parent is away",
        LinkState::Loop => "the parent leads back here",
    };
    writeln!(text, "{}: {state}", uplink.ident.escape_debug())?;
    if let Some(fault) = &uplink.fault {
        writeln!(text, "    last fault  {}", fault.escape_debug())?;
    }
    let oldest = uplink.oldest_ms.map(|ms| format!(", the oldest {}", age(now_ms - ms))).unwrap_or_default();
    writeln!(text, "    waiting     {}{oldest}", uplink.waiting)?;
    writeln!(text, "    delivered   {}", uplink.delivered)?;
    for held in &uplink.held {
        let (channel, for_long) =
            (held.channel.escape_debug(), age(i64::try_from(held.age.as_millis()).unwrap_or(i64::MAX)));
        writeln!(text, "    denied      {channel}: {} kept for {for_long}", held.messages)?;
    }
    let Refusals { denied, too_long, share, other } = uplink.refused;
    if uplink.refused != Refusals::default() {
        writeln!(
            text,
            "    refused     {denied} denied for too long, {too_long} too long, {share} above the share, {other} otherwise"
        )?;
    }
    writeln!(text, "    lost        {}", uplink.lost)
}

fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::figures::{Figures, Held};

    fn uplink() -> UplinkSnapshot {
        let figures = Figures::new("cowrie-1".parse().unwrap());
        figures.change(|figures| {
            figures.state = LinkState::Connected(Some(Level::STORED));
            (figures.delivered, figures.waiting, figures.oldest_ms) = (100, 7, Some(1_000_000));
        });
        figures.snapshot()
    }

    #[test]
    fn the_screen_says_who_how_much_how_old_and_why() {
        let quiet = "parent central:20000\ncowrie-1: connected, the parent stores\n    waiting     7, the oldest 3m\n    \
                     delivered   100\n    lost        0\n";
        assert_eq!(screen("central:20000", &[uplink()], 0, 1_200_000), quiet);
        let held = Held { channel: "c.d".parse().unwrap(), messages: 5, age: Duration::from_secs(90) };
        let refused = Refusals { denied: 1, too_long: 2, share: 3, other: 4 };
        let worse = UplinkSnapshot {
            state: LinkState::Rejected,
            fault: Some("Authentication failed\u{1b}".to_owned()),
            held: vec![held],
            refused,
            lost: 9,
            oldest_ms: None,
            ..uplink()
        };
        let text = screen("central:20000", &[worse], 12, 0);
        let lines: Vec<_> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "not stored: 12 messages are lost, as the disk did not follow or failed",
                "cowrie-1: the parent refuses the key",
                "last fault  Authentication failed\\u{1b}",
                "waiting     7",
                "delivered   100",
                "denied      c.d: 5 kept for 90s",
                "refused     1 denied for too long, 2 too long, 3 above the share, 4 otherwise",
                "lost        9",
            ]
        );
    }
}
