use hpfeeds::wire::Channel;

use super::*;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&[([127, 0, 0, 1], 1).into()]))
}

fn ident(n: usize) -> Ident {
    format!("ident-{n}").parse().unwrap()
}

#[test]
fn idents_beyond_the_limit_are_told_as_others() {
    let metrics = metrics();
    let mut sessions: Vec<_> = (0..MAX_SERIES + 3).map(|n| metrics.session(&ident(n), "owner")).collect();
    assert_eq!(metrics.idents().len(), MAX_SERIES + 1);
    let other = metrics.idents().known(&OTHER.parse().unwrap()).unwrap().report(Instant::now());
    assert_eq!(other.ready, 3);
    assert_eq!(other.owners, BTreeMap::from([(OTHER.to_owned(), 3)]), "their owners are no labels");
    assert_eq!(sessions.pop().unwrap().ident(), &ident(MAX_SERIES + 2));
    // Somebody may be called that.
    let named = metrics.session(&OTHER.parse().unwrap(), "owner");
    drop(named);
    assert_eq!(metrics.idents().len(), MAX_SERIES + 1);
}

#[test]
fn channels_beyond_the_limits_are_told_as_others() {
    let metrics = metrics();
    let channel = |n: usize| format!("channel-{n}").parse().unwrap();
    let sizes = || {
        let mut sizes = Sizes::new(0);
        sizes.add(5, 1);
        sizes
    };
    let greedy = metrics.session(&ident(0), "owner");
    for n in 0..MAX_CHANNELS + 7 {
        greedy.channel(&channel(n)).published(&sizes(), 5);
    }
    assert_eq!(metrics.channels.count.load(Relaxed), MAX_CHANNELS + 1);
    let other = greedy.channel(&OTHER.parse().unwrap());
    assert_eq!(other.publishes().unwrap().1, 35);
    let many: Vec<_> = (1..20).map(|n| metrics.session(&ident(n), "owner")).collect();
    for session in &many {
        for n in 0..MAX_CHANNELS {
            drop(session.subscribed(&channel(n)));
        }
    }
    // One for what is beyond, for each ident that had no room.
    assert!((MAX_SERIES..MAX_SERIES + 20).contains(&metrics.channels.count.load(Relaxed)));
    assert_eq!(many[18].channel(&channel(1)).subscriptions(), Some(0));
    drop((greedy, many, other));
    let later = Instant::now() + Duration::from_secs(2 * 60 * 60);
    metrics.idents().sweep(Instant::now());
    assert_eq!(metrics.idents().len(), 20);
    metrics.idents().sweep(later);
    assert_eq!((metrics.idents().len(), metrics.channels.count.load(Relaxed)), (0, 0));
}

#[test]
fn what_goes_nowhere_is_told_by_channel_whoever_is_forgotten() {
    let metrics = metrics();
    let told = |now| metrics.channels.all_unrouted(now);
    let channel = |n: usize| format!("channel-{n}").parse::<Channel>().unwrap();
    let start = Instant::now();
    let [one, two, greedy] = [0, 1, 2].map(|n| metrics.session(&ident(n), "owner"));
    one.channel(&channel(0)).unrouted(3);
    two.channel(&channel(0)).unrouted(4);
    assert_eq!(told(start), [(channel(0), 7)]);
    // Its numbers go, and what was told stays: a counter that falls is taken for one that has started again.
    drop(one);
    let hours = |n: u64| start + Duration::from_secs(n * 60 * 60);
    for n in [0, 2] {
        metrics.idents().sweep(hours(n));
        assert_eq!(metrics.idents().len(), if n == 0 { 3 } else { 2 });
        assert_eq!(told(hours(n)), [(channel(0), 7)]);
    }
    for n in 0..MAX_CHANNELS + 7 {
        greedy.channel(&channel(n)).unrouted(1);
    }
    let all = told(hours(2));
    assert_eq!(all.len(), MAX_CHANNELS + 1);
    assert_eq!(all.iter().find(|(name, _)| *name == OTHER).map(|(_, count)| *count), Some(7));
    assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 7 + MAX_CHANNELS as u64 + 7);
    drop((two, greedy));
    for n in [2, 4, 6] {
        metrics.idents().sweep(hours(n));
        let _ = told(hours(n));
    }
    assert_eq!(told(hours(6)), [], "what nobody uses is forgotten");
}

#[test]
fn sums_do_not_fall_when_a_connection_ends() {
    let metrics = metrics();
    let (one, two) = (metrics.session(&ident(0), "a"), metrics.session(&ident(0), "b"));
    one.received(10);
    two.received(1);
    one.queued(100, 90);
    one.sent(40);
    two.dropped(3);
    let report = || metrics.idents().known(&ident(0)).unwrap().report(Instant::now());
    let totals = report().totals;
    assert_eq!((totals.received, totals.filled, totals.drained, totals.queued, totals.dropped), (11, 90, 40, 60, 3));
    assert_eq!(report().owners.len(), 2);
    drop(one);
    assert_eq!(report().totals, connection::Totals { queued: 0, ..totals });
    assert_eq!((report().ready, report().lost, report().owners.len()), (2, 1, 1));
}

#[test]
fn who_has_not_authenticated_is_nobody() {
    let metrics = metrics();
    let errors = |series: &IdentSeries| series.report(Instant::now()).errors.iter().sum::<u64>();
    metrics.rejected(&ident(0), Category::InvalidSecret);
    assert_eq!((errors(&metrics.nobody), metrics.idents().len()), (1, 0));
    drop(metrics.session(&ident(0), "owner"));
    metrics.rejected(&ident(0), Category::InvalidSecret);
    assert_eq!(errors(&metrics.nobody), 1);
    assert_eq!(errors(&metrics.idents().known(&ident(0)).unwrap()), 1);
    let listening = metrics.listening(([127, 0, 0, 1], 1).into());
    drop(listening.connection());
    assert_eq!(metrics.nobody.report(Instant::now()).lost, 1);
}

#[test]
fn a_refusal_is_counted_once() {
    let metrics = metrics();
    let (one, two) = (metrics.session(&ident(0), "a"), metrics.session(&ident(0), "a"));
    one.error(Category::NoPubPermission);
    one.refused();
    two.refused();
    let errors = metrics.idents().known(&ident(0)).unwrap().report(Instant::now()).errors;
    let named: Vec<_> = Category::ALL.iter().zip(errors).filter(|(_, count)| *count > 0).collect();
    assert_eq!(named, [(&"no-pub-permission", 1), (&"invalid-message", 1)]);
}

#[test]
fn times_fall_into_their_buckets() {
    let latency = Latency::default();
    for time in [Duration::ZERO, Duration::from_micros(100), Duration::from_micros(101), Duration::from_secs(9)] {
        latency.observe(time);
    }
    let counts: Vec<_> = latency.counts.iter().map(Counter::get).collect();
    assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (bound, text) in Latency::BOUNDS {
        assert_eq!(text.parse(), Ok(bound.as_secs_f64()));
    }
}
