//! The record of a mailbox: its cursors and counts as an operator sees them, and as bytes.
//!
//! `u8 version=1 | u8 expired | position declared | i64 seen ms | u64 told, denied, unrepeatable |
//! position damaged | u16 texts, each: text, position cursor, position counted | u16 skipped, each a
//! position | u16 losses, each: u8 reason, channel or nothing, u64 messages`. A position is two u64,
//! a text a u8 length and its bytes; everything big endian.

use bytes::{Buf, BufMut};
use hpfeeds::wire::{Channel, extension::Position};

use super::{super::stock::Waiting, core::Mailbox, losses::Reason, snapshot::MailboxSnapshot, spec::MailboxSpec};

const VERSION: u8 = 1;

impl Mailbox {
    /// The mailbox as an operator sees it.
    pub(crate) fn snapshot(&self) -> MailboxSnapshot {
        MailboxSnapshot {
            name: self.spec.name.clone(),
            owner: self.claims.owner(),
            claims: self.claims.len(),
            acknowledges: self.claims.acknowledges(),
            address: self.claims.address(),
            texts: self.texts.iter().map(|(name, text)| (name.clone(), text.cursor)).collect(),
            lowest: self.lowest(),
            waiting: Waiting::default(),
            on_its_way: self.window.messages(),
            counts: self.counts.clone(),
            stuck: self.probe.suspect().map(|position| (position, self.probe.crashes())),
            failures: self.probe.failures(),
            is_expired: self.is_expired,
            seen_ms: self.seen_ms,
        }
    }

    /// Its stored form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.is_expired)];
        put_position(&mut bytes, self.declared);
        bytes.put_i64(self.seen_ms);
        for count in [self.counts.told, self.counts.denied, self.counts.unrepeatable] {
            bytes.put_u64(count);
        }
        put_position(&mut bytes, self.counts.damaged);
        put_len(&mut bytes, self.texts.len());
        for (text, cursors) in self.texts.iter() {
            put_text(&mut bytes, text);
            put_position(&mut bytes, cursors.cursor);
            put_position(&mut bytes, cursors.counted);
        }
        put_len(&mut bytes, self.skipped.len());
        for skipped in &self.skipped {
            put_position(&mut bytes, *skipped);
        }
        put_len(&mut bytes, self.counts.losses.iter().count());
        for (reason, channel, messages) in self.counts.losses.iter() {
            bytes.put_u8(Reason::ALL.iter().position(|other| *other == reason).map_or(u8::MAX, low));
            put_text(&mut bytes, channel.map_or("", Channel::as_str));
            bytes.put_u64(messages);
        }
        bytes
    }

    /// A mailbox out of its stored form; `None` for what this version has not written.
    pub(crate) fn decode(spec: MailboxSpec, mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        if get(bytes, Buf::try_get_u8)? != VERSION {
            return None;
        }
        let is_expired = get(bytes, Buf::try_get_u8)? != 0;
        let mut mailbox = Self::new(spec, get_position(bytes)?, 0);
        mailbox.is_expired = is_expired;
        mailbox.seen_ms = get(bytes, Buf::try_get_i64)?;
        mailbox.counts.told = get(bytes, Buf::try_get_u64)?;
        mailbox.counts.denied = get(bytes, Buf::try_get_u64)?;
        mailbox.counts.unrepeatable = get(bytes, Buf::try_get_u64)?;
        mailbox.counts.damaged = get_position(bytes)?;
        for _ in 0..get(bytes, Buf::try_get_u16)? {
            let text = Channel::new(get_text(bytes)?).ok()?;
            let cursor = get_position(bytes)?;
            mailbox.texts.restore(text, cursor, get_position(bytes)?);
        }
        for _ in 0..get(bytes, Buf::try_get_u16)? {
            mailbox.skipped.insert(get_position(bytes)?);
        }
        for _ in 0..get(bytes, Buf::try_get_u16)? {
            let reason = *Reason::ALL.get(usize::from(get(bytes, Buf::try_get_u8)?))?;
            let channel = Channel::new(get_text(bytes)?).ok();
            mailbox.counts.losses.add(reason, channel.as_ref(), get(bytes, Buf::try_get_u64)?);
        }
        mailbox.is_changed = false;
        Some(mailbox)
    }
}

/// At most 1,001 things are counted.
fn put_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.put_u16(u16::try_from(len).unwrap_or(u16::MAX));
}

fn low(at: usize) -> u8 {
    u8::try_from(at).unwrap_or(u8::MAX)
}

pub(crate) fn put_position(bytes: &mut Vec<u8>, position: Position) {
    bytes.put_u64(position.epoch);
    bytes.put_u64(position.number);
}

/// A text of at most 255 bytes.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.put_slice(text.as_bytes());
}

fn get<'a, T, E>(bytes: &mut &'a [u8], read: impl FnOnce(&mut &'a [u8]) -> Result<T, E>) -> Option<T> {
    read(bytes).ok()
}

pub(crate) fn get_position(bytes: &mut &[u8]) -> Option<Position> {
    let epoch = bytes.try_get_u64().ok()?;
    Some(Position::new(epoch, bytes.try_get_u64().ok()?))
}

pub(crate) fn get_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(bytes.try_get_u8().ok()?);
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}
