//! The control frames of the extension that wait to be written to one client.
//!
//! The order that a client relies on: REFUSED stands before any ACK and HELLO that covers it, an ACK
//! of one stream before the HELLO of the next, and SUBACKs stand in the order of their subscriptions.
//! So what was queued last is kept open, as one REFUSED and one ACK behind everything else: the next
//! one only changes their numbers.

use bytes::BytesMut;
use hpfeeds::wire::{
    Channel,
    extension::{BrokerFrame, BrokerHello, RefusedRange},
};

/// The bytes of frames beyond which the client is not read.
pub(crate) const MAX_QUEUED: usize = 64 * 1024;

/// The length of ACK in bytes, which is counted while one waits.
const ACK_LEN: usize = 13;

/// Frames that wait, as bytes but for the last of their kind.
#[derive(Default)]
pub(crate) struct Control {
    frames: BytesMut,
    /// Neighbouring messages that were refused.
    refused: Option<Box<Refused>>,
    ack: Option<u64>,
    heartbeat: bool,
    /// The bytes that the writer has taken and not yet written as a whole.
    writing: usize,
    /// The connection cannot be written to any more.
    closed: bool,
}

struct Refused {
    range: RefusedRange,
    channel: Channel,
    text: String,
}

impl Control {
    /// Queues HELLO behind everything that is about the stream before.
    pub(crate) fn hello(&mut self, hello: BrokerHello<'_>) {
        self.seal();
        self.push(&BrokerFrame::Hello(hello));
    }

    /// Queues an ACK, or raises the one that waits.
    pub(crate) fn ack(&mut self, number: u64) {
        if !self.closed {
            self.ack = Some(number);
        }
    }

    /// Queues REFUSED, or lengthens the one that waits when these messages follow its own. `text`
    /// is for a person.
    pub(crate) fn refuse(&mut self, range: RefusedRange, channel: &Channel, text: impl FnOnce() -> String) {
        if self.closed {
            return;
        }
        if let Some(last) = self.refused.as_mut().filter(|last| last.channel == *channel)
            && let Some(longer) = joined(last.range, range)
        {
            last.range = longer;
            return;
        }
        self.seal_refused();
        self.refused = Some(Box::new(Refused { range, channel: channel.clone(), text: text() }));
    }

    /// Queues a HEARTBEAT, unless another frame waits: that one is a sign of life, too.
    pub(crate) fn heartbeat(&mut self) {
        self.heartbeat = !self.closed;
    }

    /// Queues any other frame.
    pub(crate) fn push(&mut self, frame: &BrokerFrame<'_>) {
        if self.closed {
            return;
        }
        let encoded = frame.encode(&mut self.frames);
        debug_assert!(encoded.is_ok(), "names are checked, and lists bounded: {encoded:?}");
    }

    /// Queues a frame of the base protocol that no window keeps back.
    pub(crate) fn push_base(&mut self, frame: &[u8]) {
        if !self.closed {
            self.seal();
            self.frames.extend_from_slice(frame);
        }
    }

    /// Whether so much waits that the client is not to be read.
    pub(crate) fn is_full(&self) -> bool {
        let ack = if self.ack.is_some() { ACK_LEN } else { 0 };
        self.frames.len() + self.writing + ack > MAX_QUEUED
    }

    /// Moves everything into an empty buffer; `false` when there is nothing. The bytes taken count
    /// until they are [`written`](Self::written).
    pub(crate) fn take(&mut self, chunk: &mut BytesMut) -> bool {
        self.seal();
        if std::mem::take(&mut self.heartbeat) && self.frames.is_empty() {
            self.push(&BrokerFrame::Heartbeat);
        }
        std::mem::swap(&mut self.frames, chunk);
        self.writing = chunk.len();
        if chunk.is_empty() {
            // An idle connection keeps no buffer.
            (*chunk, self.frames) = (BytesMut::new(), BytesMut::new());
            return false;
        }
        true
    }

    /// All that was taken has been written.
    pub(crate) fn written(&mut self) {
        self.writing = 0;
    }

    /// Forgets everything, and takes nothing more.
    pub(crate) fn close(&mut self) {
        *self = Self { closed: true, ..Self::default() };
    }

    /// Puts what is open behind the other frames: REFUSED, then ACK, which covers it.
    fn seal(&mut self) {
        self.seal_refused();
        if let Some(number) = self.ack.take() {
            self.push(&BrokerFrame::Ack { number });
        }
    }

    fn seal_refused(&mut self) {
        if let Some(refused) = self.refused.take() {
            let Refused { range, ref channel, ref text } = *refused;
            self.push(&BrokerFrame::Refused { range, channel, text });
        }
    }
}

/// The range that holds both, if the second follows the first. Messages without numbers always do.
fn joined(one: RefusedRange, other: RefusedRange) -> Option<RefusedRange> {
    let count = one.count.checked_add(other.count)?;
    let follows =
        if one.first == 0 { other.first == 0 } else { one.first.checked_add(one.count.into()) == Some(other.first) };
    (follows && one.code == other.code).then_some(RefusedRange { count, ..one })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use hpfeeds::wire::extension::{Code, ExtensionHeader};

    use super::*;

    fn range(first: u64, count: u32) -> RefusedRange {
        RefusedRange { first, count, code: Code::NOT_ALLOWED }
    }

    fn taken(control: &mut Control) -> Vec<String> {
        let (mut chunk, mut texts) = (BytesMut::new(), Vec::new());
        control.take(&mut chunk);
        let mut rest = &chunk[..];
        while let Some(header) = ExtensionHeader::parse(rest).unwrap() {
            texts.push(match BrokerFrame::parse(header.opcode, header.body(rest).unwrap()).unwrap() {
                BrokerFrame::Ack { number } => format!("ack {number}"),
                BrokerFrame::Refused { range, channel, text } => {
                    format!("refused {} {} {channel} {text}", range.first, range.count)
                }
                BrokerFrame::Hello(hello) => format!("hello {}", hello.decided),
                other => format!("{:?}", other.opcode()),
            });
            rest = &rest[header.length..];
        }
        texts
    }

    #[test]
    fn an_ack_is_raised_until_it_is_written_and_stands_behind_every_refusal() {
        let (mut control, channel) = (Control::default(), "c".parse().unwrap());
        control.ack(3);
        control.refuse(range(4, 2), &channel, || "no".to_owned());
        control.ack(5);
        control.refuse(range(6, 1), &channel, || panic!("its text stands already"));
        control.push(&BrokerFrame::Heartbeat);
        control.ack(6);
        assert_eq!(taken(&mut control), ["Heartbeat", "refused 4 3 c no", "ack 6"]);
        assert_eq!(taken(&mut control), [""; 0]);
        control.ack(7);
        assert_eq!(taken(&mut control), ["ack 7"]);
    }

    #[test]
    fn refusals_are_one_frame_only_when_they_are_neighbours_on_a_channel_for_one_reason() {
        let (mut control, [c, d]) = (Control::default(), ["c", "d"].map(|name| name.parse().unwrap()));
        let no = String::new;
        for (first, channel) in [(1, &c), (2, &c), (4, &c), (5, &d), (6, &c)] {
            control.refuse(range(first, 1), channel, no);
        }
        control.refuse(RefusedRange { code: Code::FULL, ..range(7, 1) }, &c, no);
        control.refuse(range(0, 2), &d, no);
        control.refuse(range(0, 3), &d, no);
        control.refuse(range(0, u32::MAX), &d, no);
        assert_eq!(
            taken(&mut control),
            [
                "refused 1 2 c ",
                "refused 4 1 c ",
                "refused 5 1 d ",
                "refused 6 1 c ",
                "refused 7 1 c ",
                "refused 0 5 d ",
                "refused 0 4294967295 d "
            ]
        );
    }

    #[test]
    fn a_heartbeat_waits_once_and_gives_way_to_any_other_frame() {
        let mut control = Control::default();
        control.heartbeat();
        control.heartbeat();
        assert_eq!(taken(&mut control), ["Heartbeat"]);
        control.heartbeat();
        control.ack(1);
        assert_eq!(taken(&mut control), ["ack 1"]);
        assert_eq!(taken(&mut control), [""; 0]);
    }

    #[test]
    fn a_hello_stands_behind_all_that_is_about_the_stream_before() {
        let (mut control, channel) = (Control::default(), "c".parse().unwrap());
        control.refuse(range(8, 1), &channel, String::new);
        control.ack(8);
        control.hello(BrokerHello { decided: 2, ..BrokerHello::default() });
        control.ack(3);
        assert_eq!(taken(&mut control), ["refused 8 1 c ", "ack 8", "hello 2", "ack 3"]);
    }

    #[test]
    fn frames_count_until_they_are_written_and_not_after_the_end() {
        let mut control = Control::default();
        while !control.is_full() {
            control.push(&BrokerFrame::Heartbeat);
        }
        let mut chunk = BytesMut::new();
        assert!(control.take(&mut chunk) && chunk.len() > MAX_QUEUED && chunk.len() < MAX_QUEUED + 16);
        assert!(control.is_full());
        control.written();
        assert!(!control.is_full());
        chunk.clear();
        assert!(!control.take(&mut chunk) && chunk.capacity() == 0, "an idle connection keeps no buffer");
        assert_eq!(control.frames.capacity(), 0);
        control.ack(1);
        control.close();
        control.ack(2);
        control.push(&BrokerFrame::Heartbeat);
        assert!(!control.take(&mut chunk));
    }
}
