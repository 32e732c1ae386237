//! Properties of frames, names and sessions, whatever a broker does, tried with cases that are made up:
//! the same ones each time, so that nobody meets a failure that others do not see. `PROPTEST_CASES` and
//! `PROPTEST_RNG_SEED` ask for more, or others.

use std::{env, time::Duration};

use bytes::BytesMut;
use hpfeeds::{
    Backoff, SessionState,
    wire::{Channel, Codec, EncodeError, Frame, FrameRef, Frames, Ident, Limits, NameError, Nonce, Pattern},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed},
};
use tokio::time::sleep;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::script::Script;

pub(super) fn cases(number: u32) -> Config {
    let mut config = Config::default();
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = number;
    }
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(0x0068_7066_6565_6473);
    }
    // A failing case is printed at its smallest, and becomes a vector or a test.
    config.failure_persistence = None;
    config
}

/// Text of all sorts, short or about as long as a name may be.
fn text() -> impl Strategy<Value = String> {
    let char = || prop_oneof![4 => select(&['a', 'b', '.', '*'][..]), 1 => any::<char>()];
    prop_oneof![
        4 => vec(char(), 0..8).prop_map(String::from_iter),
        1 => (char(), 60..260usize).prop_map(|(char, times)| String::from_iter(vec![char; times])),
    ]
}

fn name<T: TryFrom<String, Error = NameError> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    text().prop_filter_map("no name", |text| T::try_from(text).ok())
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..most)
}

fn frame() -> impl Strategy<Value = Frame> {
    let names = || (name::<Ident>(), name::<Channel>());
    prop_oneof![
        bytes(300).prop_map(|message| Frame::Error { message: message.into() }),
        (text(), bytes(40)).prop_map(|(name, nonce)| Frame::Info { name, nonce: Nonce::new(nonce) }),
        (name::<Ident>(), any::<[u8; 20]>()).prop_map(|(ident, digest)| Frame::Auth { ident, digest }),
        names().prop_map(|(ident, channel)| Frame::Subscribe { ident, channel }),
        names().prop_map(|(ident, channel)| Frame::Unsubscribe { ident, channel }),
        (names(), bytes(300)).prop_map(|((ident, channel), payload)| Frame::Publish {
            ident,
            channel,
            payload: payload.into()
        }),
    ]
}

/// Frames as they follow one another: many have the names of the one before.
fn frames() -> impl Strategy<Value = Vec<Frame>> {
    vec((frame(), 1..4usize), 0..8)
        .prop_map(|frames| frames.into_iter().flat_map(|(frame, times)| vec![frame; times]).collect())
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn encoded_frames_decode_to_the_same_in_any_pieces(
        frames in frames(),
        max in select(&[0u32, 64, 300, 1 << 20][..]),
        sizes in vec(1..40usize, 1..6),
    ) {
        let limits = Limits::new(max);
        let (mut codec, mut encoded, mut expected) = (Codec::new(limits), BytesMut::new(), Vec::new());
        for frame in frames {
            let before = encoded.len();
            match codec.encode(&frame, &mut encoded) {
                Ok(()) => {
                    let length = encoded.len() - before;
                    prop_assert!(length <= limits.of(frame.opcode()) as usize);
                    prop_assert_eq!(&encoded[before..before + 4], &u32::try_from(length).unwrap().to_be_bytes());
                    expected.push(frame);
                }
                Err(EncodeError::TooLong { length, limit, .. }) => {
                    prop_assert!(length > limit as usize && limit == limits.of(frame.opcode()));
                    prop_assert_eq!(encoded.len(), before);
                }
                Err(EncodeError::Name(cause)) => {
                    let Frame::Info { name, .. } = frame else { panic!("{frame:?}") };
                    prop_assert_eq!(cause, NameError::TooLong(name.len()));
                    prop_assert_eq!(encoded.len(), before);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        let (mut rest, mut sizes) = (&encoded[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                found.push(frame);
            }
            rest = after;
        }
        prop_assert_eq!(&found, &expected);
        prop_assert!(buffer.is_empty());
        // And without a copy.
        let mut again = BytesMut::new();
        let mut count = 0;
        for (frame, expected) in Frames::new(&encoded, limits).zip(&expected) {
            let frame = frame.unwrap();
            if let (FrameRef::Publish { ident, channel, payload }, Frame::Publish { .. }) = (frame, expected) {
                let copy = Frame::Publish {
                    ident: ident.parse().unwrap(),
                    channel: channel.parse().unwrap(),
                    payload: payload.to_vec().into(),
                };
                prop_assert_eq!(&copy, expected);
            }
            expected.encode(&mut again, limits).unwrap();
            count += 1;
        }
        prop_assert_eq!((count, again), (expected.len(), encoded));
    }

    #[test]
    fn a_name_has_1_to_255_bytes_and_stays_what_it_is(text in text()) {
        let expected = match text.len() {
            0 => Err(NameError::Empty),
            1..=255 => Ok(text.clone()),
            len => Err(NameError::TooLong(len)),
        };
        prop_assert_eq!(Ident::new(&text).map(String::from), expected.clone());
        prop_assert_eq!(Channel::new(&text).map(String::from), expected.clone());
        prop_assert_eq!(Pattern::new(&text).map(|pattern| pattern.to_string()), expected);
    }

    #[test]
    fn names_order_and_hash_as_their_text(one in text(), other in text()) {
        if let (Ok(a), Ok(b)) = (Channel::new(&one), Channel::new(&other)) {
            prop_assert_eq!(a.cmp(&b), one.cmp(&other));
            prop_assert_eq!(a == b, one == other);
            let set = std::collections::HashSet::from([a]);
            prop_assert_eq!(set.contains(other.as_str()), one == other);
        }
    }

    #[test]
    fn a_pattern_stands_for_what_its_documentation_says(text in text(), channel in text()) {
        let Ok(pattern) = Pattern::new(&text) else { return Ok(()) };
        let inside = text.strip_suffix('*').map(|prefix| format!("{prefix}{channel}"));
        for channel in [Some(channel), Some(text.clone()), inside].into_iter().flatten().filter(|name| !name.is_empty()) {
            let expected = match text.strip_suffix(".*") {
                _ if text == "*" || text == channel => true,
                Some(parent) => channel.strip_prefix(parent).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')),
                None => false,
            };
            prop_assert_eq!(pattern.matches(&channel), expected, "{:?} on {:?}", text, channel);
        }
    }

    #[test]
    fn delays_grow_within_their_bounds(initial in 0..100_000u64, max in 0..200_000_000u64, failures in 0..40u32, jitter in -0.5..1.5f64) {
        let day = Duration::from_secs(24 * 60 * 60);
        let backoff = Backoff::new(Duration::from_millis(initial), Duration::from_millis(max));
        let initial = Duration::from_millis(initial).clamp(Backoff::FLOOR, day);
        let max = Duration::from_millis(max).clamp(initial, day);
        let delay = backoff.delay(failures, jitter);
        prop_assert!((Backoff::FLOOR..=max).contains(&delay), "{:?}", delay);
        prop_assert!(delay.as_secs_f64() <= initial.as_secs_f64() * 2f64.powi(failures.try_into().unwrap()) + 1e-6);
        // The worst case doubles, and more jitter or failures never make it shorter.
        prop_assert_eq!(backoff.delay(failures + 1, 1.0), (backoff.delay(failures, 1.0) * 2).min(max));
        prop_assert!(backoff.delay(failures, jitter) <= backoff.delay(failures + 1, jitter));
        prop_assert!(backoff.delay(failures, jitter) <= backoff.delay(failures, jitter + 0.1));
    }
}

/// The outcome of one attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Refused,
    /// The broker closes before it greets.
    Mute,
    /// It greets, and closes so many milliseconds later.
    Accepted(u64),
    /// It greets and delivers something, and closes.
    Delivers,
}

proptest! {
    #![proptest_config(cases(200))]

    /// Only a connection that lasted starts the delays over.
    #[test]
    fn delays_start_over_after_a_good_connection_only(fates in vec(prop_oneof![
        Just(Fate::Refused),
        Just(Fate::Mute),
        select(&[10u64, 400, 9_000, 11_000][..]).prop_map(Fate::Accepted),
        Just(Fate::Delivers),
    ], 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(20));
            let (mut script, builder) = Script::new();
            script.set_down(true);
            let mut seed = 1;
            fastrand::seed(seed);
            let session = builder.backoff(backoff).start().unwrap();
            let mut state = session.state();
            let mut check = async |failures: &mut u32, good: bool| {
                let waiting = state.wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
                let SessionState::Waiting { delay } = *waiting else { unreachable!() };
                if good {
                    *failures = 0;
                }
                // The dice that it threw.
                fastrand::seed(seed);
                assert_eq!(delay, backoff.delay(*failures, fastrand::f64()), "after {failures} failures");
                *failures += 1;
                seed += 1;
                fastrand::seed(seed);
                delay
            };
            let mut failures = 0;
            // Before the first: it is told to refuse.
            let mut delay = check(&mut failures, false).await;
            for fate in fates {
                script.set_down(fate == Fate::Refused);
                match fate {
                    Fate::Refused => {
                        sleep(delay + Duration::from_millis(1)).await;
                        delay = check(&mut failures, false).await;
                    }
                    Fate::Mute => {
                        drop(script.accept().await);
                        sleep(Duration::from_millis(1)).await;
                        delay = check(&mut failures, false).await;
                    }
                    Fate::Accepted(millis) => {
                        let peer = script.login().await;
                        sleep(Duration::from_millis(millis)).await;
                        drop(peer);
                        sleep(Duration::from_millis(1)).await;
                        delay = check(&mut failures, millis > 10_250).await;
                    }
                    Fate::Delivers => {
                        let mut peer = script.login().await;
                        peer.publish("a", "x").await;
                        sleep(Duration::from_millis(1)).await;
                        drop(peer);
                        sleep(Duration::from_millis(1)).await;
                        delay = check(&mut failures, false).await;
                    }
                }
            }
        });
    }
}
