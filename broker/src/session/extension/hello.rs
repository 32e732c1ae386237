//! The answer to HELLO, which is also the positive one to AUTH.

use hpfeeds::wire::{
    Opcode,
    extension::{BrokerHello, Flags, Level, StreamNumbering},
};
use tracing::debug;

use crate::{
    context::BrokerContext,
    identity::Membership,
    session::{
        error_frame::SHUTTING_DOWN,
        extension::{Extension, JOURNAL_FAILED, NO_NUMBERS, asked::Asked, stream::Stream},
    },
    streams::{Claimed, StreamHold, key::StreamKey},
};

/// The program in the broker's HELLO.
const SOFTWARE: &str = concat!("hpfeeds-broker/", env!("CARGO_PKG_VERSION"));

impl Extension {
    /// HELLO has arrived, and everything before it is decided. It is answered at once, unless
    /// another connection holds the stream: then that one is fenced, and
    /// [`claim`](Self::claim) answers.
    pub(super) fn hello(
        &mut self,
        asked: Asked,
        membership: &Membership,
        context: &BrokerContext,
    ) -> Result<(), String> {
        self.acknowledge(context);
        debug!(ident = membership.ident().as_str(), peer = %self.link.outbox().peer(), ?asked, "HELLO");
        if !asked.flags.contains(Flags::CONFIRM) {
            self.stream = None;
            return self.answer(asked, None, context);
        }
        let key = StreamKey { account: membership.quota().account(), stream: asked.stream };
        match self.stream.take() {
            Some(stream) if stream.hold.is(&key) => self.answer(asked, Some((stream.hold, true)), context),
            other => {
                // Before another is claimed: no connection holds one and waits for another.
                drop(other);
                if self.link.is_fenced() {
                    // It ends, and must not take another stream from the connection that holds it.
                    return Ok(());
                }
                match context.streams.claim(key, &self.link) {
                    Claimed::Now(hold, known) => self.answer(asked, Some((hold, known)), context),
                    Claimed::Later(claim) => {
                        self.asked = Some(Box::new((claim, asked)));
                        Ok(())
                    }
                }
            }
        }
    }

    /// Answers the HELLO whose stream another connection held, once that one has given it back.
    pub(crate) fn claim(&mut self, context: &BrokerContext) -> Result<(), String> {
        if let Some(waiting) = &mut self.asked
            && let Some(hold) = waiting.0.take()
        {
            let asked = waiting.1;
            self.asked = None;
            return self.answer(asked, Some((hold, true)), context);
        }
        Ok(())
    }

    fn answer(
        &mut self,
        asked: Asked,
        stream: Option<(StreamHold, bool)>,
        context: &BrokerContext,
    ) -> Result<(), String> {
        if context.closing.is_cancelled() {
            // Subscribers have ended: what was routed since then may have been discarded.
            return Err(SHUTTING_DOWN.to_owned());
        }
        if stream.is_some() && context.journal.as_ref().is_some_and(|store| store.journal.health().is_over()) {
            return Err(JOURNAL_FAILED.to_owned());
        }
        let timeout = context.config.client_timeout.filter(|_| asked.flags.contains(Flags::HEARTBEAT));
        // Three signs of life in that time.
        let heartbeat = timeout.map_or(0, |timeout| (timeout.get() / 3).max(1));
        self.link.expect(asked.heartbeat, timeout.map_or(0, |timeout| timeout.get().into()));
        let mut hello = BrokerHello {
            version: asked.version,
            flags: asked.flags,
            heartbeat,
            node: context.node,
            level: if stream.is_some() && context.journal.is_some() { Level::STORED } else { Level::ROUTED },
            software: SOFTWARE,
            largest_message: Some(context.config.limits.of(Opcode::Publish)),
            path: context.path(),
            ..BrokerHello::default()
        };
        if let Some((hold, known)) = stream {
            if known {
                hello.flags = hello.flags | Flags::KNOWN;
            }
            hello.decided = hold.progress.decided;
            hello.refused = hold.progress.refusals.from(asked.next);
            let numbering = StreamNumbering::new(asked.next, hello.decided).ok_or(NO_NUMBERS)?;
            self.stream = Some(Stream::new(hold, numbering));
        }
        self.flags = asked.flags;
        self.link.window.resize(asked.window);
        self.link.control().hello(hello);
        (self.said, self.renewed) = (true, true);
        Ok(())
    }
}
