//! Last values and shares.

use std::sync::Arc;

use hpfeeds::wire::{Pattern, extension::Position};

use super::{
    super::{last_values::LastValues, shares::Shares, table_log::TableLog},
    sim_disk::SimDisk,
    support::{draft, parse},
};

fn patterns() -> Vec<Pattern> {
    vec![Pattern::new("status.*").unwrap()]
}

fn numbers(values: &LastValues, text: &str) -> Vec<u64> {
    values.matching(text, &|channel| channel != "status.secret").iter().map(|frame| parse(frame)[0].1).collect()
}

#[test]
fn the_newest_message_of_each_covered_channel_is_kept_through_restarts() {
    let disk = SimDisk::new(1);
    let open = || TableLog::open(Arc::new(disk.clone())).unwrap().0;
    let mut table = open();
    let values = LastValues::new(patterns(), Some(&table));
    values.publish(&draft(&[("status.a", 1), ("status.a", 2), ("other", 3), ("status.b", 4), ("status.secret", 5)], 0));
    values.publish(&draft(&[("status.a", 6)], 0));
    assert_eq!(numbers(&values, "status.a"), [6]);
    assert_eq!(numbers(&values, "status.*"), [4, 6], "the oldest first");
    assert_eq!(numbers(&values, "*"), [4, 6]);
    assert_eq!((numbers(&values, "other"), numbers(&values, "status.secret")), (vec![], vec![]));
    values.store(&mut table);
    table.commit().unwrap();
    drop(table);
    let mut table = open();
    let again = LastValues::new(patterns(), Some(&table));
    assert_eq!((numbers(&again, "status.a"), numbers(&again, "status.b")), (vec![6], vec![4]));
    assert_eq!(again.figures().0, 3);
    // Patterns of another start: the others go.
    let narrow = LastValues::new(vec![Pattern::new("status.b").unwrap()], Some(&table));
    assert_eq!(numbers(&narrow, "*"), [4]);
    narrow.store(&mut table);
    table.commit().unwrap();
    drop(table);
    assert_eq!(open().rows(1).count(), 1);
}

#[test]
fn of_more_than_10000_channels_or_64_mib_the_oldest_value_goes() {
    let values = LastValues::new(patterns(), None);
    for number in 0..10_005 {
        values.publish(&draft(&[(&format!("status.{number}"), number)], 0));
    }
    assert_eq!((values.figures().0, values.figures().2), (10_000, 5));
    assert_eq!((numbers(&values, "status.4"), numbers(&values, "status.5")), (vec![], vec![5]));
    let values = LastValues::new(patterns(), None);
    for number in 0..70 {
        values.publish(&draft(&[(&format!("status.{number}"), number)], 1 << 20));
    }
    assert!(values.figures().1 <= 64 << 20 && values.figures().0 >= 62, "{:?}", values.figures());
    assert_eq!(numbers(&values, "status.69"), [69]);
}

#[test]
fn above_half_of_the_limit_no_account_holds_more_than_a_quarter() {
    let shares = Shares::new(100_000, true);
    let mut last = 0;
    let mut publish = |account: &str, channel: &str| {
        let draft = draft(&[(channel, 1)], 970);
        let admits = shares.admits(account, &draft);
        if admits {
            last += 1;
            shares.appended(account, &draft, Position::new(1, last));
        }
        admits
    };
    for _ in 0..70 {
        assert!(publish("thief", "a"), "it is alone");
    }
    assert!(publish("other", "b"), "it has less than a quarter");
    assert!(!publish("thief", "a"));
    assert_eq!(shares.figures().1, 1);
    // The collector of `a` has read all of it, but for the last ten.
    shares.settle(Position::NONE, |channel| (channel == "a").then_some(Position::new(1, 60)));
    assert_eq!(shares.figures().0 / 1000, 9);
    assert!(publish("thief", "a"));
    let relay = Shares::new(1000, false);
    relay.appended("a", &draft(&[("a", 1)], 900), Position::new(1, 1));
    assert!(relay.admits("b", &draft(&[("a", 1)], 900)));
}
