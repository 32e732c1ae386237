//! The extension's frames from a client, and the answers to the others that it sends.

use hpfeeds::wire::{
    Channel, FrameBatch, HEADER_LEN,
    extension::{
        BrokerFrame, ClientFrame, Code, ExtensionDecodeError, ExtensionHeader, ExtensionOpcode, Mode, Position,
    },
};
use tokio::time::Instant;
use tracing::info;

use crate::{
    incidents::IncidentKind,
    limits::log_sampler::Suppressed,
    link::Link,
    metrics::category::Category,
    session::{
        extension::{Extension, asked::Asked},
        reader::SessionReader,
        subscribing::Source,
    },
};

/// The cost of HELLO in units of the work budget: a look into the table of streams.
const HELLO_COST: usize = 64;

impl SessionReader {
    /// Processes the frame of the extension at the start of the buffer, on a connection that was
    /// offered it. `false` when some of it is missing. An error is the ERROR text.
    #[cold]
    pub(crate) fn extension_frame(&mut self) -> Result<bool, String> {
        let fault = |cause: ExtensionDecodeError| cause.to_string();
        let bytes = &self.buffer.bytes;
        // The others are unknown until then, whatever their length.
        if let (None, Some(opcode)) = (&self.extension, bytes.get(HEADER_LEN - 1))
            && *opcode != ExtensionOpcode::Hello as u8
        {
            return Err(fault(ExtensionDecodeError::UnknownOpcode(*opcode)));
        }
        let Some(header) = ExtensionHeader::parse(bytes).map_err(fault)? else {
            return Ok(false);
        };
        let Some(body) = header.body(bytes) else {
            self.buffer.need_frame(header.length);
            return Ok(false);
        };
        match ClientFrame::parse(header.opcode, body).map_err(fault)? {
            ClientFrame::Hello(hello) => {
                if self.extension.as_mut().is_some_and(|extension| extension.settles_first()) {
                    return Ok(false);
                }
                self.attendance.software(hello.software);
                let stores = self.context.journal.is_some();
                let (asked, outbox) = (Asked::of(&hello, stores), self.subscriptions.outbox());
                let new = || {
                    let link = Link::new(outbox.clone());
                    self.context.pulse.add(&link);
                    Box::new(Extension::new(link))
                };
                let extension = self.extension.get_or_insert_with(new);
                extension.hello(asked, &self.membership, &self.context)?;
                if let Some(storing) = &mut self.storing {
                    storing.stores_all = self.context.config.storage.is_relay || extension.stores_all();
                }
                self.budget.charge(HELLO_COST);
            }
            ClientFrame::Heartbeat => {}
            ClientFrame::Consumed { bytes, position, mailbox } => {
                if let Some(extension) = &mut self.extension {
                    extension.consume(bytes)?;
                }
                if let Some(post) = self.post.as_ref().filter(|_| position != Position::NONE) {
                    post.consumed(mailbox, position);
                }
            }
            ClientFrame::SubscribeFrom { mode, position, mailbox, channel } => {
                let channel = Channel::new(channel).map_err(|cause| cause.to_string())?;
                let stores = self.context.journal.is_some();
                let name = mailbox.to_owned();
                match mode {
                    Mode::LIVE if name.is_empty() => self.subscribe(&channel, Source::Live)?,
                    Mode::LAST_VALUE if name.is_empty() && stores => self.subscribe(&channel, Source::LastValue)?,
                    Mode::CURSOR if stores => self.subscribe(&channel, Source::Mailbox(&name, position))?,
                    _ => {
                        let ident = self.membership.ident();
                        let text = format!("{ident} has no mailbox {name:?} here, and channels keep no last values");
                        self.budget.charge_lookup(0);
                        self.answer(&channel, Code::NO_MAILBOX, text)?;
                    }
                }
            }
            other => return Err(fault(ExtensionDecodeError::Direction(other.opcode()))),
        }
        self.budget.charge(1);
        self.buffer.skip(header.length);
        Ok(true)
    }

    /// Whether what is not allowed is answered with REFUSED and SUBACK, and does not end the
    /// connection.
    pub(crate) fn replies(&self) -> bool {
        self.extension.as_ref().is_some_and(|extension| extension.replies())
    }

    /// Refuses the messages at the start of the buffer that are on a channel: of the first it is
    /// known that it is one.
    #[cold]
    pub(crate) fn refuse(&mut self, channel: &Channel, text: String) -> Result<(), String> {
        let passing = FrameBatch::new(self.buffer.passing(), self.context.config.limits);
        let Some((first, body)) = passing.publish_at(0) else {
            return Ok(());
        };
        let names = FrameBatch::names(body).unwrap_or_default().len();
        let batch = passing.same_names(first, names, |_, _| ());
        self.budget.charge_lookup(0);
        if let Some(extension) = &mut self.extension {
            extension.refuse(batch.messages, Code::NOT_ALLOWED, channel, || text, &self.context)?;
        }
        self.context.metrics.counters.denied.add(batch.messages.into());
        self.outbox().session().denied(Category::NoPubPermission);
        self.buffer.skip(batch.len);
        self.log_denial(Some(IncidentKind::DeniedPublish), "denied: publish", channel, batch.messages);
        Ok(())
    }

    /// Answers a subscription or the end of one. Without SUBACK, anything but success is the text
    /// of an ERROR.
    pub(crate) fn answer(&mut self, channel: &Channel, code: Code, text: String) -> Result<(), String> {
        match &mut self.extension {
            Some(extension) if extension.replies() => {
                extension.say(&BrokerFrame::SubAck { code, channel, text: &text });
                match code {
                    Code::NOT_ALLOWED => {
                        self.outbox().session().denied(Category::NoSubPermission);
                        self.log_denial(Some(IncidentKind::DeniedSubscribe), "denied: subscribe", channel, 1);
                    }
                    Code::TOO_MANY => self.log_denial(None, "too many subscriptions: subscribe", channel, 1),
                    _ => {}
                }
                Ok(())
            }
            _ if code == Code::DONE => Ok(()),
            _ => Err(text),
        }
    }

    /// Counts and logs a denial that does not end the connection: a client may cause very many.
    fn log_denial(&self, kind: Option<IncidentKind>, what: &'static str, channel: &Channel, count: u32) {
        let (ident, peer) = (self.membership.ident(), self.outbox().peer());
        if let Some(kind) = kind {
            self.context.incidents.add_many(kind, Some(ident), peer.ip(), Some(channel), what, count.into());
        }
        let ident = ident.as_str();
        if let Some(Suppressed { here: unlogged, elsewhere }) =
            self.context.log.denied.sample(peer.ip(), Instant::now())
        {
            info!(ident, %peer, channel = channel.as_str(), unlogged, elsewhere, "{what}");
        }
    }
}
