//! The state of one connection: its phase, what it has asked for, and why it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};

use super::{expected::Mailboxes, life::Life, transport::FrameTransport, watch::Watch};
use crate::{
    client::{
        driver::{
            desired::Shared,
            reconnect::{ConnectionOutcome, ReconnectState},
            wanted::Wish,
        },
        error::Error,
    },
    wire::{Channel, Frame, extension::Flags},
};

/// A complaint explains the end of a connection that follows it within this time.
pub(super) const RECENT: Duration = Duration::from_secs(10);

/// Why a connection is over.
pub(crate) enum End {
    /// Everything was written and the broker closed after our half-close: it has read all of it.
    Confirmed,
    /// The program asked for it, or closing took too long.
    Stopped,
    /// Everything that was written is confirmed by the broker's end of stream after ours: another
    /// connection goes on.
    Rotated,
    /// Something went wrong.
    Failed(Error),
}

/// ```text
/// Greeting ── HELLO ─────────────────────────┐
/// Proving ── the grace passed, or a message came ──► Accepted ── close() ──► Closing ── all written ──► HalfClosed
///    └────────────────── close() with nothing to send ─────────────────────────▲
/// ```
pub(super) enum Phase {
    /// AUTH and HELLO are sent. Messages stay queued until the broker has answered HELLO.
    Greeting {
        deadline: Pin<Box<Sleep>>,
    },
    /// AUTH is sent. Messages stay queued until the broker had time to refuse the key: on a
    /// connection that it closes without a word, its EOF would look like a confirmation.
    Proving {
        grace: Pin<Box<Sleep>>,
        /// Subscriptions still to be asked for, a few at a time.
        replay: VecDeque<Channel>,
        /// The subscriptions that the grace is for; before the first, it is for the key.
        last: Vec<Channel>,
    },
    Accepted,
    Closing,
    HalfClosed,
}

pub(crate) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    pub(super) reconnect: &'a mut ReconnectState,
    pub(super) first: &'a mut Option<oneshot::Sender<Result<(), Error>>>,
    pub(super) transport: FrameTransport,
    pub(super) broker: String,
    pub(super) phase: Phase,
    /// The end of closing, once that has been asked for.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    pub(super) parting: Option<Parting>,
    /// The agreement with a broker that knows the extension.
    pub(super) extension: Option<Extension>,
    /// No message is written until then: the broker has refused something, and most close after
    /// that.
    pub(super) hold: Option<Pin<Box<Sleep>>>,
    /// The channels that the broker was asked for, with when and what for.
    pub(super) subscribed: BTreeMap<Channel, (Instant, Wish)>,
    pub(super) mailboxes: Mailboxes,
    /// When the connection is ended to have messages confirmed.
    pub(super) rotation: Option<Pin<Box<Sleep>>>,
    /// When the next of them counts as delivered, for a broker that never says so.
    pub(super) granting: Option<Pin<Box<Sleep>>>,
    /// The broker's last complaint: why it will have closed.
    pub(super) complaint: Option<Complaint>,
    pub(super) outcome: ConnectionOutcome,
    /// The watch over bytes that were written and are on their way.
    pub(super) watch: Watch,
    pub(super) needs_flush: bool,
    /// How many batches and other frames it has acted on since it let others run.
    pub(super) frames: u32,
    /// Nothing can be written any more.
    pub(super) broken: bool,
}

/// A complaint of the broker: its cause, and when it came.
pub(super) struct Complaint {
    pub(super) cause: Error,
    pub(super) at: Instant,
}

/// The end of our stream before the session's: the broker reads what comes before that, and closes.
/// It shuts down and has asked for it, or it has no other way to confirm messages.
pub(super) struct Parting {
    /// Why; `None` when the session itself ends its stream, to have messages confirmed.
    pub(super) cause: Option<Error>,
    /// It has so much time.
    pub(super) deadline: Pin<Box<Sleep>>,
}

/// The extension on one connection.
#[derive(Debug)]
pub(super) struct Extension {
    /// The flags that HELLO asked for.
    pub(super) asked: Flags,
    /// A HELLO of ours waits for its answer.
    pub(super) asks: bool,
    /// The broker has answered one.
    pub(super) answered: bool,
    /// The flags that the broker granted.
    pub(super) granted: Flags,
    /// Changes of subscriptions that are not answered, in order.
    pub(super) unanswered: VecDeque<(Channel, Wish)>,
    /// The longest frame of a message that the broker takes.
    pub(super) largest: u32,
    /// The window that HELLO told.
    pub(super) window: u32,
    /// Signs of life and the window, once they are granted.
    pub(super) life: Option<Life>,
    /// How often a new stream was begun, since the broker knew another of the same id.
    pub(super) renewed: u32,
}

impl Extension {
    pub(super) fn grants(&self, flags: Flags) -> bool {
        self.granted.contains(flags)
    }
}

pub(super) fn encode(shared: &Shared, frames: &[Frame]) -> Bytes {
    let mut bytes = BytesMut::new();
    for frame in frames {
        // Names and digests have bounded lengths: no legal one is above the limits of these frames.
        if let Err(error) = frame.encode(&mut bytes, shared.config.limits) {
            debug_assert!(false, "{error}");
        }
    }
    bytes.freeze()
}

pub(super) fn subscribe(shared: &Shared, channel: &Channel) -> Frame {
    Frame::Subscribe { ident: shared.config.ident.clone(), channel: channel.clone() }
}

pub(super) fn unsubscribe(shared: &Shared, channel: Channel) -> Frame {
    Frame::Unsubscribe { ident: shared.config.ident.clone(), channel }
}
