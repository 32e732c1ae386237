//! The search for messages to channels that a broker refuses, which leave the queue.

use std::{collections::VecDeque, mem, ops::Range};

use bytes::Bytes;

use super::{
    batch::{Batch, OutgoingBatch},
    waiter::Waiter,
};
use crate::{client::error::Error, wire::FrameBatch};

/// The messages that were taken out, and their bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) room: usize,
    pub(crate) messages: u64,
}

/// Takes messages that `refusal` gives a reason against, by their channel and the length of their
/// frame, out of the batches; says what went, and returns the barriers behind which nothing is left. Numbered messages stay, as the
/// broker counts them.
pub(crate) fn retain(
    batches: &mut VecDeque<OutgoingBatch>,
    mut refusal: impl FnMut(&str, usize) -> Option<Error>,
) -> (Removed, Vec<Waiter>) {
    #[cfg(test)]
    SEARCHES.set(SEARCHES.get() + 1);
    let mut removed = Removed::default();
    let mut kept: VecDeque<OutgoingBatch> = VecDeque::with_capacity(batches.len());
    let mut barriers = Vec::new();
    for batch in batches.drain(..) {
        let OutgoingBatch::Messages(mut batch) = batch else {
            kept.push_back(batch);
            continue;
        };
        if batch.number().is_none() {
            let went = search(&mut batch, &mut refusal);
            removed.room += went.room;
            removed.messages += went.messages;
        }
        if batch.messages() > 0 {
            batch.prepend_barriers(mem::take(&mut barriers));
            kept.push_back(OutgoingBatch::Messages(batch));
        } else {
            barriers.extend(batch.take_waiters().into_iter().map(|(_, waiter)| waiter));
        }
    }
    // Behind the last message that is left.
    if let Some(OutgoingBatch::Messages(batch)) = kept.back_mut() {
        if batch.number().is_none() {
            for barrier in barriers.drain(..) {
                batch.push_barrier(barrier);
            }
        }
    }
    *batches = kept;
    (removed, barriers)
}

/// Takes messages out of one batch. One batch becomes at most one: a walk over all would otherwise
/// meet as many as messages.
fn search(batch: &mut Batch, refusal: &mut impl FnMut(&str, usize) -> Option<Error>) -> Removed {
    let mut removed = Removed::default();
    let whole = batch.len();
    let large = batch.is_large();
    let (mut at, mut messages) = (0, 0);
    let mut stays: Vec<Range<usize>> = Vec::new();
    let mut waiters = Vec::new();
    let mut waiting = batch.take_waiters().into_iter().peekable();
    let head = batch.parts()[0].clone();
    let frames: &mut dyn Iterator<Item = &[u8]> =
        if large { &mut std::iter::once(&head[..]) } else { &mut FrameBatch::checked(&head).frames() };
    for (index, frame) in (0..).zip(frames) {
        let place = at..at + frame.len();
        at = place.end;
        let len = if large { whole } else { frame.len() };
        let refused = FrameBatch::checked(frame).first_channel().and_then(|channel| refusal(channel, len));
        while let Some((of, waiter)) = waiting.next_if(|(of, _)| *of <= index) {
            match (&refused, waiter) {
                (Some(cause), waiter @ Waiter::Receipt(_)) if of == index => waiter.fail(cause.clone()),
                (_, waiter) => waiters.push((messages, waiter)),
            }
        }
        if refused.is_some() {
            removed.room += len;
            removed.messages += 1;
            continue;
        }
        messages += 1;
        match stays.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => stays.push(place),
        }
    }
    waiters.extend(waiting.map(|(_, waiter)| (messages, waiter)));
    if removed.messages == 0 {
        batch.replace(head.clone(), messages, waiters);
        return removed;
    }
    let bytes = match &stays[..] {
        [] => Bytes::new(),
        [one] => head.slice(one.clone()),
        several => several.iter().map(|part| &head[part.clone()]).collect::<Vec<_>>().concat().into(),
    };
    batch.replace(bytes, messages, waiters);
    removed
}

#[cfg(test)]
thread_local! {
    /// How often batches were searched for messages on this thread.
    pub(crate) static SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
