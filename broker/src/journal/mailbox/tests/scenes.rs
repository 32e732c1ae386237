//! Scenes of one mailbox: texts, owners, keys, ages, losses, commands.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hpfeeds::wire::{Channel, extension::Position};

use crate::journal::{
    batch::Batch,
    mailbox::{
        claims::Claim,
        core::{Mailbox, SkipError, Taken, Taking, TooManyTexts, Took},
        losses::Reason,
        probe::Probe,
        window::End,
    },
    tests::support::{START_MS, draft, parse},
};

const NOW: Duration = Duration::from_secs(1000);

fn at(number: u64) -> Position {
    Position::new(1, number)
}

fn mailbox(spec: &str) -> Mailbox {
    Mailbox::new(spec.parse().unwrap(), at(0), START_MS)
}

fn claim(id: u64, host: u8) -> Claim {
    Claim { id, address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), acknowledges: true }
}

/// A connection subscribes at the end of what there is.
fn subscribe(mailbox: &mut Mailbox, claim: &Claim, text: &str) {
    for part in mailbox.parts(&Channel::new(text).unwrap()) {
        mailbox.subscribe(claim, &part, at(1000)).unwrap();
    }
}

/// A message for each channel, from number 1 on.
fn batches(channels: &[&str]) -> Vec<Batch> {
    (1..).zip(channels).map(|(number, channel)| draft(&[(channel, number)], 0).at(at(number))).collect()
}

fn with(allows: &dyn Fn(&str) -> bool) -> Taking<'_> {
    Taking { now: NOW, oldest_ms: None, allows }
}

/// The numbers that the owner gets.
fn take(mailbox: &mut Mailbox, batches: &[Batch]) -> Vec<u64> {
    take_with(mailbox, batches, &with(&|_| true)).0
}

/// As that; and the numbers of what is passed over with `skip`.
fn take_with(mailbox: &mut Mailbox, batches: &[Batch], with: &Taking<'_>) -> (Vec<u64>, Vec<u64>) {
    let mut taken = Taken::default();
    let head = mailbox.head().unwrap();
    for batch in batches.iter().filter(|batch| batch.last() > head) {
        if mailbox.take(batch, with, 10_000, &mut taken) != Took::All {
            break;
        }
    }
    let numbers = |deliveries: Vec<crate::journal::batch::Delivery>| {
        deliveries.iter().flat_map(|one| parse(&one.frames)).map(|(_, number)| number).collect()
    };
    (numbers(taken.deliveries), numbers(taken.dead))
}

#[test]
fn a_subscription_is_cut_to_what_the_mailbox_covers() {
    let mailbox = mailbox("c=a.*,b,d.e.*");
    let parts = |text: &str| -> Vec<String> {
        mailbox.parts(&Channel::new(text).unwrap()).iter().map(ToString::to_string).collect()
    };
    assert_eq!(parts("*"), ["a.*", "b", "d.e.*"]);
    assert_eq!(parts("a.x"), ["a.x"]);
    assert_eq!(parts("a.*"), ["a.*"]);
    assert_eq!(parts("d.*"), ["d.e.*"]);
    assert_eq!(parts("c"), Vec::<String>::new());
    assert!(mailbox.wants("a.x") && mailbox.wants("b") && !mailbox.wants("a") && !mailbox.wants("c"));
}

#[test]
fn a_narrower_text_begins_at_the_cursor_of_the_narrowest_that_covers_it() {
    let batches = batches(&["a.b", "a.c", "a.b", "a.c", "a.b"]);
    let mut mailbox = mailbox("c=a.*");
    let first = claim(1, 1);
    subscribe(&mut mailbox, &first, "a.*");
    assert_eq!(take(&mut mailbox, &batches), [1, 2, 3, 4, 5]);
    assert!(mailbox.consumed(1, at(3)));
    mailbox.end(1, End::Fin, NOW);
    subscribe(&mut mailbox, &claim(2, 1), "a.b");
    assert_eq!(take(&mut mailbox, &batches), [5], "what a.* had got is not sent again");
    assert!(mailbox.consumed(2, at(5)));
    mailbox.end(2, End::Fin, NOW);
    subscribe(&mut mailbox, &claim(3, 1), "a.*");
    assert_eq!(take(&mut mailbox, &batches), [4, 5], "a.b has moved a.b alone");
}

#[test]
fn a_text_that_is_subscribed_late_begins_at_the_declaration_and_moves_both() {
    let batches = batches(&["a.b", "a.c", "a.b", "a.c"]);
    let mut mailbox = mailbox("c=a.*");
    subscribe(&mut mailbox, &claim(1, 1), "a.b");
    assert_eq!(take(&mut mailbox, &batches), [1, 3]);
    assert!(mailbox.consumed(1, at(3)));
    subscribe(&mut mailbox, &claim(1, 1), "a.*");
    assert_eq!(take(&mut mailbox, &batches), [1, 2, 3, 4], "a.* has had nothing");
}

#[test]
fn the_oldest_connection_owns_the_mailbox_and_a_new_one_from_its_address_takes_over() {
    let mut mailbox = mailbox("c=a");
    for one in [claim(1, 1), claim(2, 2), claim(3, 3)] {
        subscribe(&mut mailbox, &one, "a");
    }
    assert_eq!(mailbox.claims.owner(), Some(1));
    subscribe(&mut mailbox, &claim(2, 2), "a");
    assert_eq!(mailbox.claims.owner(), Some(1));
    subscribe(&mut mailbox, &claim(4, 1), "a");
    assert_eq!(mailbox.claims.owner(), Some(4), "its machine was started again");
    mailbox.end(4, End::Fin, NOW);
    assert_eq!(mailbox.claims.owner(), Some(1), "the former one is one of the others, the oldest");
    mailbox.end(2, End::Fin, NOW);
    mailbox.end(1, End::Fin, NOW);
    assert_eq!(mailbox.claims.owner(), Some(3));
    mailbox.end(3, End::Fin, NOW);
    assert_eq!((mailbox.claims.owner(), mailbox.head()), (None, None));
}

#[test]
fn denied_channels_are_passed_over_and_counted_once() {
    let batches = batches(&["a", "b", "a", "b"]);
    let mut mailbox = mailbox("c=*");
    for id in 1..4 {
        mailbox.probe = Probe::default();
        subscribe(&mut mailbox, &claim(id, 1), "*");
        let (numbers, _) = take_with(&mut mailbox, &batches, &with(&|channel| channel == "a"));
        assert_eq!(numbers, [1, 3]);
        mailbox.end(id, End::Broken, NOW);
    }
    assert_eq!(mailbox.counts.denied, 2);
    assert_eq!(mailbox.counts.losses.iter().count(), 0);
}

#[test]
fn messages_that_are_too_old_are_passed_over_and_counted_by_channel_once() {
    let batches = batches(&["a", "b", "a"]);
    let mut mailbox = mailbox("c=*");
    for id in 1..3 {
        mailbox.probe = Probe::default();
        subscribe(&mut mailbox, &claim(id, 1), "*");
        let taking = Taking { oldest_ms: Some(START_MS + 1), ..with(&|_| true) };
        assert_eq!(take_with(&mut mailbox, &batches[..2], &taking).0, [0; 0]);
        mailbox.end(id, End::Broken, NOW);
    }
    let lost: Vec<_> =
        mailbox.counts.losses.iter().map(|(reason, channel, n)| (reason, channel.unwrap().to_string(), n)).collect();
    assert_eq!(lost, [(Reason::Retention, "a".to_owned(), 1), (Reason::Retention, "b".to_owned(), 1)]);
    // They are not counted again when their segment goes.
    for batch in &batches {
        mailbox.lose(batch);
    }
    assert_eq!(mailbox.counts.losses.of(Reason::Retention), 3);
}

#[test]
fn what_nobody_has_subscribed_to_is_wanted_from_the_declaration_on() {
    let batches = batches(&["a", "b", "a"]);
    let mut mailbox = mailbox("c=a,b");
    subscribe(&mut mailbox, &claim(1, 1), "a");
    assert_eq!(take(&mut mailbox, &batches), [1, 3]);
    assert!(mailbox.consumed(1, at(3)));
    assert!(mailbox.wants_until(at(1)), "for b");
    for batch in &batches {
        mailbox.lose(batch);
    }
    mailbox.dropped(at(3));
    assert_eq!((mailbox.counts.losses.of(Reason::Retention), mailbox.counts.unrepeatable), (1, 0));
    assert!(!mailbox.wants_until(at(3)));
}

#[test]
fn damage_is_counted_once_for_all_texts() {
    let mut mailbox = mailbox("c=a,b");
    subscribe(&mut mailbox, &claim(1, 1), "a");
    mailbox.lost(at(10), 15, false);
    assert_eq!(mailbox.head(), Some(at(15)));
    subscribe(&mut mailbox, &claim(1, 1), "b");
    assert_eq!(mailbox.head(), Some(at(0)));
    mailbox.lost(at(10), 17, false);
    assert_eq!(mailbox.counts.losses.of(Reason::Damage), 7);
    assert_eq!(mailbox.tell(), Some((7, Reason::Damage)));
    assert_eq!(mailbox.tell(), None, "it is told once");
}

#[test]
fn a_message_on_which_the_collector_crashes_is_passed_over_when_it_is_asked_for_or_after_so_many_times() {
    let batches = batches(&["a", "a", "a", "a", "a"]);
    for spec in ["c=a", "c=a:skip-after=3"] {
        let mut mailbox = mailbox(spec);
        assert_eq!(mailbox.skip(), Err(SkipError::NotStuck));
        let (mut now, mut skipped) = (NOW, None);
        for id in 1..40 {
            subscribe(&mut mailbox, &claim(id, 1), "a");
            let mut got = Vec::new();
            while !got.contains(&3) && got.len() < 5 && skipped.is_none() {
                now = mailbox.retry_at(now).unwrap_or(now);
                got.extend(take_with(&mut mailbox, &batches, &Taking { now, ..with(&|_| true) }).0);
            }
            skipped = mailbox.end(id, End::Broken, now);
            if skipped.is_some() || (mailbox.probe.suspect().is_some() && !spec.contains("skip")) {
                break;
            }
        }
        if spec.contains("skip") {
            assert_eq!(skipped, Some(at(3)));
        } else {
            assert_eq!((skipped, mailbox.skip()), (None, Ok(at(3))));
        }
        for id in 50..52 {
            subscribe(&mut mailbox, &claim(id, 1), "a");
            let (got, dead) = take_with(&mut mailbox, &batches, &Taking { now, ..with(&|_| true) });
            assert_eq!(got, [1, 2, 4, 5], "{spec}");
            assert_eq!(dead, if id == 50 { vec![3] } else { vec![] }, "it is put aside once");
            mailbox.end(id, End::Broken, now + Duration::from_secs(100));
        }
        assert_eq!(mailbox.counts.losses.of(Reason::Skipped), 1);
        subscribe(&mut mailbox, &claim(60, 1), "a");
        take(&mut mailbox, &batches);
        assert!(mailbox.consumed(60, at(5)));
        assert!(mailbox.skipped.is_empty(), "the cursor is past it");
    }
}

#[test]
fn a_mailbox_is_rewound_forgotten_and_expires() {
    let batches = batches(&["a", "a", "a"]);
    let mut mailbox = mailbox("c=a");
    subscribe(&mut mailbox, &claim(1, 1), "a");
    take(&mut mailbox, &batches);
    assert!(mailbox.consumed(1, at(3)));
    mailbox.rewind(at(1));
    assert_eq!(take(&mut mailbox, &batches), [2, 3]);
    assert!(!mailbox.expire(START_MS + 5, at(3)), "somebody is there");
    mailbox.end(1, End::Fin, NOW);
    assert!(!mailbox.expire(START_MS, at(3)));
    assert!(mailbox.expire(START_MS + 5, at(3)));
    assert_eq!((mailbox.wants("a"), mailbox.counts.losses.of(Reason::Expired)), (false, 2));
    assert!(!mailbox.expire(START_MS + 5, at(3)), "once");
    subscribe(&mut mailbox, &claim(2, 1), "a");
    assert_eq!((mailbox.wants("a"), mailbox.head()), (true, Some(at(1000))), "from then on");
}

#[test]
fn an_auto_mailbox_covers_what_was_ever_subscribed_from_then_on() {
    let mut mailbox = mailbox("c=auto");
    assert!(!mailbox.wants("a.b") && !mailbox.wants_until(at(9)));
    subscribe(&mut mailbox, &claim(1, 1), "a.*");
    assert_eq!(mailbox.head(), Some(at(1000)));
    mailbox.end(1, End::Fin, NOW);
    assert!(mailbox.wants("a.b") && !mailbox.wants("b") && mailbox.wants_until(at(1001)));
    subscribe(&mut mailbox, &claim(1, 1), "b");
    assert!(mailbox.wants("b"));
}

#[test]
fn a_mailbox_keeps_1000_texts() {
    let mut mailbox = mailbox("c=*");
    for number in 0..1000 {
        subscribe(&mut mailbox, &claim(1, 1), &format!("a{number}"));
    }
    let text = Channel::new("b").unwrap();
    assert_eq!(mailbox.subscribe(&claim(1, 1), &text, at(0)), Err(TooManyTexts));
    assert_eq!(mailbox.subscribe(&claim(1, 1), &Channel::new("a7").unwrap(), at(0)), Ok(()));
}

#[test]
fn a_stored_mailbox_is_the_same_and_any_cut_of_it_is_noticed() {
    let batches = batches(&["a", "b", "a"]);
    let mut mailbox = mailbox("c=*");
    subscribe(&mut mailbox, &claim(1, 1), "*");
    subscribe(&mut mailbox, &claim(1, 1), "a");
    take_with(&mut mailbox, &batches, &with(&|channel| channel == "a"));
    mailbox.consumed(1, at(1));
    mailbox.lost(at(5), 9, true);
    mailbox.skipped.insert(at(3));
    mailbox.tell();
    let bytes = mailbox.encode();
    let spec = mailbox.spec.clone();
    let again = Mailbox::decode(spec.clone(), &bytes).unwrap();
    assert_eq!((again.encode(), &again.counts), (bytes.clone(), &mailbox.counts));
    for cut in 0..bytes.len() {
        assert!(Mailbox::decode(spec.clone(), &bytes[..cut]).is_none(), "{cut}");
    }
}
