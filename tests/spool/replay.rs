//! Messages that are written, read back, released and told of.

use std::time::Duration;

use hpfeeds::{
    WhenFull,
    spool::{Answer, SpoolHandle, SpoolNews, Want},
};
use tokio::time::advance;

use crate::{
    sim_disk::SimDisk,
    support::{at, batch, check, drain, frame_of, next, small, start, stream},
};

fn append(spool: &SpoolHandle, id: u8, first: u64, messages: u32) {
    spool.append(batch(id, first, messages)).unwrap();
    assert_eq!(spool.durable(), Some(at(id, first + u64::from(messages) - 1)));
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_is_used_by_nobody_writes_its_owner_and_nothing_else() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    assert_eq!(spool.news(), [SpoolNews::Opened { messages: 0 }]);
    let names: Vec<_> = disk.files().into_keys().collect();
    assert_eq!(names, ["spool"]);
    let before = disk.operations();
    for _ in 0..600 {
        advance(Duration::from_secs(1)).await;
        spool.release(at(1, 5));
        assert_eq!(next(&spool, None), None);
    }
    assert_eq!(disk.operations(), before, "ten minutes cost nothing");
    spool.close();
    assert!(spool.is_closed());
    assert_eq!(disk.operations(), before, "nor does the end");
    start(&small(&disk));
    assert_eq!(disk.operations(), before, "nor does the second opening");
}

#[tokio::test(start_paused = true)]
async fn streams_are_read_back_oldest_first_and_a_drained_spool_is_empty() {
    let disk = SimDisk::new(1);
    for id in 1..=3 {
        let spool = start(&small(&disk));
        for first in [1, 11, 21] {
            append(&spool, id, first, 10);
        }
    }
    let spool = start(&small(&disk));
    assert_eq!(spool.news(), [SpoolNews::Opened { messages: 90 }]);
    append(&spool, 4, 1, 10);
    assert_eq!(spool.status().messages, 100);
    assert_eq!(drain(&spool), [(1, 1, 30), (2, 1, 30), (3, 1, 30), (4, 1, 10)]);
    assert_eq!(spool.news(), []);
    advance(Duration::from_secs(1)).await;
    spool.poll();
    assert_eq!(spool.news(), [SpoolNews::Drained]);
    let names: Vec<_> = disk.files().into_keys().collect();
    assert_eq!(names, ["cursor", "spool"], "no segment is left");
    assert_eq!((spool.status().messages, spool.status().bytes, spool.status().since), (0, 0, None));
    append(&spool, 4, 11, 1);
    assert_eq!(spool.news(), [SpoolNews::Spooling]);
    assert_eq!(drain(&spool), [(4, 11, 11)]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_in_memory_are_not_read_back() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    for first in (1..400).step_by(20) {
        append(&spool, 1, first, 20);
    }
    let chunk = next(&spool, Some(at(1, 315))).unwrap();
    assert_eq!(check(&chunk).unwrap(), 316..=400, "into the middle of a record");
    append(&spool, 1, 401, 20);
    append(&spool, 1, 421, 20);
    assert_eq!(next(&spool, Some(at(1, 440))), None);
    append(&spool, 1, 441, 20);
    let chunk = next(&spool, Some(at(1, 440))).unwrap();
    assert_eq!(check(&chunk).unwrap(), 441..=460);
}

#[tokio::test(start_paused = true)]
async fn released_messages_are_gone_after_a_restart_to_the_message() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    append(&spool, 1, 1, 10);
    append(&spool, 1, 11, 10);
    spool.release(at(1, 13));
    assert_eq!(spool.status().messages, 7);
    advance(Duration::from_secs(1)).await;
    spool.poll();
    let killed = start(&small(&disk.kill()));
    assert_eq!(drain(&killed), [(1, 14, 20)], "the cursor is durable a second later");
    // A number behind all that is known of the stream releases no more than that.
    spool.release(at(1, 1_000_000));
    spool.release(at(9, 1));
    assert_eq!(spool.status().messages, 0);
    append(&spool, 1, 21, 1);
    assert_eq!(drain(&spool), [(1, 21, 21)]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_spool_has_its_cursor_and_frees_its_folder() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    append(&spool, 1, 1, 10);
    spool.release(at(1, 4));
    assert!(!spool.is_closed());
    let second = start(&small(&disk));
    let news = second.news();
    assert!(
        matches!(&news[..], [SpoolNews::Failing(error)] if error.is_permanent()
            && error.to_string() == "the spool the simulated disk is used by process 1"),
        "{news:?}"
    );
    drop(second);
    spool.close();
    assert!(spool.is_closed());
    assert!(spool.append(batch(1, 11, 1)).is_err(), "it is over");
    assert_eq!(drain(&start(&small(&disk))), [(1, 5, 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_that_waits_takes_more_when_something_is_released() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk).when_full(WhenFull::Wait));
    let (mut number, mut refused) = (1, None);
    while refused.is_none() {
        if spool.append(batch(1, number, 50)).is_err() {
            refused = Some(number);
        }
        number += 50;
        assert!(number < 100_000, "it has a limit");
    }
    let durable = spool.durable().unwrap().number;
    assert!(spool.status().is_full && spool.status().bytes <= 400_000, "{:?}", spool.status());
    assert_eq!(spool.news()[2..], [SpoolNews::Full], "said once");
    assert!(durable < refused.unwrap() - 50, "some wait in memory");
    let chunk = next(&spool, None).unwrap();
    assert_eq!(chunk.first, 1);
    // A segment is a quarter of the limit.
    let mut last = chunk.last();
    for _ in 0..3 {
        spool.release(at(1, last));
        last = next(&spool, None).unwrap().last();
    }
    assert!(spool.durable().unwrap().number > durable);
    assert_eq!(spool.status().dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_drops_takes_from_the_head_and_counts_to_the_message() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk).when_full(WhenFull::DropOldest));
    // The first hundred are in memory, too.
    spool.hold(at(1, 100));
    let last = 5_000;
    for first in (1..=last).step_by(50) {
        append(&spool, 1, first, 50);
    }
    let read = drain(&spool);
    let [(1, first, end)] = read[..] else { panic!("one range: {read:?}") };
    assert_eq!(end, last);
    assert!(first > 1000, "{first}");
    assert_eq!(spool.status().dropped, first - 1 - 100);
    let told: u64 = spool.news().iter().map(|news| if let SpoolNews::Dropped(sum) = news { *sum } else { 0 }).sum();
    assert_eq!(told, first - 1 - 100);
    assert_eq!(spool.status().damaged, 0);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_stream_goes_on_under_its_new_id_also_after_a_restart() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    append(&spool, 1, 1, 10);
    // The frames are those of stream 1.
    spool.rename(stream(1), stream(2));
    let chunk = next(&spool, Some(at(2, 4))).unwrap();
    assert_eq!((chunk.stream, chunk.first, chunk.messages), (stream(2), 5, 6));
    let again = start(&small(&disk.kill()));
    let chunk = next(&again, None).unwrap();
    assert_eq!((chunk.stream, chunk.first, chunk.messages), (stream(2), 1, 10));
    again.release(at(2, 10));
    assert_eq!(again.status().messages, 0);
    spool.release(at(2, 10));
    advance(Duration::from_secs(1)).await;
    spool.poll();
    assert_eq!(spool.status().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn frames_that_would_end_each_connection_are_counted_and_not_sent() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    let mut strange = batch(1, 1, 5);
    strange.frames[1] = frame_of("another", b"x").into();
    strange.frames[3] = frame_of(crate::support::IDENT, &vec![7; 3000]).into();
    spool.append(strange).unwrap();
    // Of another number of messages than it says.
    let mut short = batch(1, 6, 5);
    short.frames.pop();
    spool.append(short).unwrap();
    let mut torn = batch(1, 11, 2);
    torn.frames.push(vec![0, 0, 0].into());
    spool.append(torn).unwrap();
    append(&spool, 1, 13, 2);
    let limits = hpfeeds::Limits::new(2000);
    drop(spool);
    let spool = SpoolHandle::start(&small(&disk), crate::support::IDENT, limits).unwrap();
    assert_eq!(drain(&spool), [(1, 1, 1), (1, 3, 3), (1, 5, 5), (1, 13, 14)]);
    assert_eq!(spool.status().damaged, 2 + 5 + 2);
    assert_eq!(spool.status().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_oldest_message_follows_what_is_released() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    append(&spool, 1, 1, 10);
    advance(Duration::from_secs(100)).await;
    append(&spool, 1, 11, 10);
    assert_eq!(spool.status().oldest, Some(Duration::from_secs(100)));
    spool.release(at(1, 10));
    assert_eq!(spool.status().oldest, Some(Duration::ZERO));
    assert_eq!(spool.status().since, Some(Duration::from_secs(100)));
    let later = start(&small(&disk.kill()).clock(|| crate::support::noon() + 7000));
    assert_eq!(later.status().oldest, Some(Duration::from_secs(7)), "by the wall clock over a restart");
    // Whatever a clock says, nothing panics and nothing is dropped.
    for clock in [|| 0, || i64::MIN, || i64::MAX] {
        let spool = start(&small(&disk.kill()).clock(clock));
        append(&spool, 2, 1, 1);
        assert!(spool.status().messages >= 11);
        let again = start(&small(&disk.kill()).clock(|| 0));
        assert_eq!(drain(&again).last(), Some(&(1, 1, 20)));
        assert_eq!(drain(&spool).last(), Some(&(2, 1, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_reads_back_what_it_has_behind_what_is_in_memory() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk).when_full(WhenFull::Wait));
    let mut number = 1;
    while spool.append(batch(1, number, 50)).is_ok() {
        number += 50;
    }
    let mut last = 75;
    spool.release(at(1, 75));
    while let Some(chunk) = next(&spool, Some(at(1, 75))) {
        assert_eq!(*check(&chunk).unwrap().start(), last + 1);
        last = chunk.last();
    }
    assert_eq!(Some(at(1, last)), spool.durable());
}

#[tokio::test(start_paused = true)]
async fn older_streams_are_read_without_passing_over_anything_of_the_newest() {
    let disk = SimDisk::new(1);
    append(&start(&small(&disk)), 1, 1, 10);
    let spool = start(&small(&disk));
    append(&spool, 2, 1, 10);
    for expected in [Some(1..=10), None, None] {
        spool.read(Want::Before(stream(2)), 0);
        let numbers = match spool.answer().unwrap() {
            Answer::Chunk(chunk) => Some(check(&chunk).unwrap()),
            Answer::End => None,
        };
        assert_eq!(numbers, expected);
    }
    // It was in memory then, and is not any more.
    let chunk = next(&spool, Some(at(2, 4))).unwrap();
    assert_eq!((chunk.stream, check(&chunk).unwrap()), (stream(2), 5..=10));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_with_as_many_chunks_as_are_wanted_and_with_the_end() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk).max_bytes(16 << 20));
    for first in (1..4000).step_by(100) {
        append(&spool, 1, first, 100);
    }
    let mut last = 0;
    loop {
        spool.read(Want::Any, 600_000);
        let (mut bytes, mut is_over, mut pieces) = (0, false, 0);
        while let Some(answer) = spool.answer() {
            // Not all of it was taken.
            spool.read(Want::Any, usize::MAX);
            let Answer::Chunk(chunk) = answer else {
                is_over = true;
                break;
            };
            assert!(bytes < 600_000, "enough is enough: {bytes}");
            assert_eq!(*check(&chunk).unwrap().start(), last + 1);
            (last, bytes, pieces) = (chunk.last(), bytes + chunk.bytes(), pieces + 1);
            if bytes >= 600_000 {
                break;
            }
        }
        assert!(is_over || pieces > 2, "{pieces}");
        if is_over {
            break;
        }
    }
    assert_eq!(last, 4000);
}

#[tokio::test(start_paused = true)]
async fn segments_that_are_released_go_within_a_second_or_before_something_is_written() {
    let disk = SimDisk::new(1);
    let segments = || disk.files().into_keys().filter(|name| name.contains(".seg")).count();
    let spool = start(&small(&disk).max_bytes(1 << 20));
    let mut number = 1;
    while segments() < 4 {
        append(&spool, 1, number, 50);
        number += 50;
    }
    let before = disk.operations();
    spool.release(at(1, number - 51));
    assert_eq!((disk.operations(), segments()), (before, 4), "a replay waits for no file to go");
    assert_eq!(spool.status().messages, 50);
    append(&spool, 1, number, 50);
    assert_eq!(segments(), 1, "what is written may need the room");
    while segments() < 4 {
        number += 50;
        append(&spool, 1, number, 50);
    }
    spool.release(at(1, number - 1));
    advance(Duration::from_secs(1)).await;
    spool.poll();
    assert_eq!(segments(), 1);
}
