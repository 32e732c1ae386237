//! The metrics of a relay, behind those of its broker.

use hpfeeds::wire::extension::Level;

use super::figures::{Figures, LinkState, UplinkSnapshot};
use crate::{
    metrics::text::{Kind, Text},
    util::clock::unix_ms,
};

/// Writes the metrics of all uplinks.
pub(crate) fn write(figures: &[Figures], text: &mut Text) {
    let uplinks: Vec<_> = figures.iter().map(Figures::snapshot).collect();
    let now = unix_ms();
    let mut each = |kind, name, help, value: &dyn Fn(&UplinkSnapshot) -> u64| {
        text.metric(kind, name, help);
        for uplink in &uplinks {
            text.sample(&[("ident", &uplink.ident)], value(uplink));
        }
    };
    each(Kind::Gauge, "hpfeeds_relay_connected", "Whether the parent has accepted the key", &|uplink| {
        matches!(uplink.state, LinkState::Connected(_)).into()
    });
    each(Kind::Gauge, "hpfeeds_relay_parent_stores", "Whether the parent confirms what it has stored", &|uplink| {
        matches!(uplink.state, LinkState::Connected(Some(level)) if level >= Level::STORED).into()
    });
    each(Kind::Counter, "hpfeeds_relay_delivered_messages", "Messages that the parent has confirmed", &|uplink| {
        uplink.delivered
    });
    each(
        Kind::Gauge,
        "hpfeeds_relay_waiting_messages",
        "Messages that the parent has not confirmed; with several idents at most so many",
        &|uplink| uplink.waiting,
    );
    each(Kind::Gauge, "hpfeeds_relay_oldest_seconds", "Age of the oldest of these that was read", &|uplink| {
        let ms = uplink.oldest_ms.map_or(0, |ms| now.saturating_sub(ms).max(0));
        u64::try_from(ms / 1000).unwrap_or(0)
    });
    each(
        Kind::Counter,
        "hpfeeds_relay_lost_messages",
        "Messages that were dropped for room or age, or damaged, before they were sent",
        &|uplink| uplink.lost,
    );
    text.metric(
        Kind::Gauge,
        "hpfeeds_relay_held_messages",
        "Messages that are kept, as the parent denies their channel",
    );
    for uplink in &uplinks {
        for held in &uplink.held {
            text.sample(&[("ident", &uplink.ident), ("chan", &held.channel)], held.messages);
        }
    }
    text.metric(Kind::Counter, "hpfeeds_relay_refused_messages", "Messages that the parent does not take, by reason");
    for uplink in &uplinks {
        let refused = uplink.refused;
        let reasons = [
            ("denied", refused.denied),
            ("too-long", refused.too_long),
            ("share", refused.share),
            ("other", refused.other),
        ];
        for (reason, messages) in reasons {
            text.sample(&[("ident", &uplink.ident), ("reason", reason)], messages);
        }
    }
}
