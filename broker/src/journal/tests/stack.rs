//! Journal, keeper and attachments together, on one simulated disk that is cut at any operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use hpfeeds::{
    log::{Disk, Entry, File, Guard, LockError, Space, StreamEnd},
    wire::{
        Channel, Pattern,
        extension::{Code, Position, RefusedRange, StreamId},
    },
};
use tokio::time::{Instant, timeout};

use super::{
    super::{
        attachment::{Attachment, Mail},
        batch::Draft,
        engine::Engine,
        handle::Journal,
        keeper::Keeper as _,
        mailbox::{claims::Claim, losses::Reason, spec::MailboxName, window::End},
        options::{JournalOptions, Now},
        post::{Mailboxes, PostKeeper, PostReport},
        shares::Shares,
        store::{Disks, Opening},
        streams::StreamName,
    },
    sim_disk::{Faults, Random, SimDisk},
    support::{START_MS, draft, parse, seeds, small},
};

/// A folder of the disk: the files whose names begin with its own.
#[derive(Debug)]
struct Folder(SimDisk, &'static str);

impl Folder {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.1)
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let own = |entry: Entry| {
            let name = entry.name.strip_prefix(self.1)?.to_owned();
            Some(Entry { name, length: entry.length })
        };
        Ok(self.0.list()?.into_iter().filter_map(own).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.0.create(&self.name(name))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.0.open(&self.name(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(&self.name(from), &self.name(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(&self.name(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn lock(&self) -> Result<Guard, LockError> {
        Ok(Box::new(()))
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }

    fn random(&self) -> u64 {
        self.0.random()
    }
}

/// A broker without sockets.
struct Stack {
    engine: Engine<PostKeeper>,
    journal: Journal,
    mailboxes: Mailboxes,
    report: PostReport,
    now: Now,
    start: Instant,
    ids: u64,
}

impl Stack {
    fn open(disk: &SimDisk, options: JournalOptions, specs: &[&str]) -> Result<Self, hpfeeds::log::LogError> {
        let folder = |name| Arc::new(Folder(disk.clone(), name)) as Arc<dyn Disk>;
        let disks = Disks {
            journal: folder("journal-"),
            cursors: folder("cursors-"),
            dead: Some(folder("dead-")),
            last: None,
            held: None,
        };
        let opening = Opening::open(&disks, Vec::new(), Shares::new(1 << 40, true))?;
        let specs = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let mut post = None;
        let (engine, _) = Engine::open(disks.journal, options, |log| {
            let (keeper, mailboxes, report) = opening.keeper(specs, Some(Duration::from_secs(86_400)), log);
            post = Some((mailboxes, report));
            keeper
        })?;
        let (mailboxes, report) = post.unwrap();
        let journal = Journal { shared: Arc::clone(&engine.shared) };
        let now = Now { since: Duration::ZERO, unix_ms: START_MS };
        Ok(Self { engine, journal, mailboxes, report, now, start: Instant::now(), ids: 0 })
    }

    fn turn(&mut self, milliseconds: u64) {
        self.now.since += Duration::from_millis(milliseconds);
        self.now.unix_ms += i64::try_from(milliseconds).unwrap();
        self.engine.turn(self.now);
    }

    fn attach(&mut self, name: &str, text: &str) -> Attachment {
        self.ids += 1;
        let claim = Claim { id: self.ids, address: IpAddr::V4(Ipv4Addr::LOCALHOST), acknowledges: true };
        let name: MailboxName = name.parse().unwrap();
        let attachment = Attachment::new(&self.mailboxes, &self.journal, &name, claim, self.start).unwrap();
        attachment.subscribe(&Channel::new(text).unwrap(), |_| false).unwrap();
        attachment
    }
}

/// The next messages, if there are any: positions, channels and numbers.
async fn next(attachment: &mut Attachment) -> Vec<(Position, String, u64)> {
    let mail = timeout(Duration::from_millis(1), attachment.next(2000, &|_| true)).await.unwrap_or_default();
    messages(&mail)
}

fn messages(mail: &Mail) -> Vec<(Position, String, u64)> {
    let each = |delivery: &super::super::batch::Delivery| {
        let first = delivery.first;
        let positions = (first.number..).map(move |number| Position::new(first.epoch, number));
        let parsed = parse(&delivery.frames);
        positions.zip(parsed).map(|(at, (channel, number))| (at, channel, number)).collect::<Vec<_>>()
    };
    mail.deliveries.iter().flat_map(each).collect()
}

const SPECS: [&str; 2] = ["one=a.*", "two=*"];
const TEXTS: [(&str, &str); 2] = [("one", "a.*"), ("two", "*")];

#[derive(Debug, Default)]
struct Model {
    /// Channels of all that were appended, by their numbers.
    appended: BTreeMap<u64, &'static str>,
    durable: BTreeSet<u64>,
    /// Of each mailbox.
    processed: [BTreeSet<u64>; 2],
    lost: [u64; 2],
    /// Of the second one, by retention.
    dropped: u64,
    next: u64,
}

impl Model {
    fn process(&mut self, mailbox: usize, got: &[(Position, String, u64)]) -> Result<(), String> {
        for (position, channel, number) in got {
            if self.appended.get(number).copied() != Some(channel.as_str()) {
                return Err(format!("{position} is made up: {number} on {channel}"));
            }
            self.processed[mailbox].insert(*number);
        }
        Ok(())
    }
}

async fn live(disk: &SimDisk, options: JournalOptions, model: &mut Model, random: &mut Random) -> Result<(), String> {
    let Ok(mut stack) = Stack::open(disk, options, &SPECS) else { return Ok(()) };
    let mut attached: [Option<(Attachment, Position)>; 2] = [None, None];
    for _ in 0..random.below(40) {
        let which = usize::try_from(random.below(2)).unwrap();
        match random.below(10) {
            0..3 => {
                let count = random.below(3) + 1;
                let channel = ["a.x", "b"][usize::try_from(random.below(2)).unwrap()];
                let texts: Vec<_> = (0..count).map(|at| (channel, model.next + at)).collect();
                let more = usize::try_from(random.below(3) * 600).unwrap();
                let appended = stack.journal.append(draft(&texts, more));
                for (_, number) in texts {
                    model.appended.insert(number, channel);
                }
                model.next += count;
                if let Ok(position) = appended
                    && random.below(2) == 0
                {
                    stack.engine.shared.want(position);
                    stack.turn(1);
                    if stack.journal.durable_position() >= position {
                        model.durable.extend(model.next - count..model.next);
                    }
                }
            }
            3 => stack.turn(10),
            4 => stack.turn(1000),
            5 if attached[which].is_none() => {
                let (name, text) = TEXTS[which];
                attached[which] = Some((stack.attach(name, text), Position::NONE));
            }
            6 => attached[which] = None,
            _ => {
                let Some((attachment, last)) = &mut attached[which] else { continue };
                let got = next(attachment).await;
                let mut at = *last;
                for (position, ..) in &got {
                    if *position <= at {
                        return Err(format!("{position} comes after {at}"));
                    }
                    at = *position;
                }
                *last = at;
                model.process(which, &got)?;
                if let Some((position, ..)) = got.last()
                    && random.below(3) > 0
                    && !attachment.consumed(*position)
                {
                    return Err(format!("{position} was not handed out"));
                }
            }
        }
    }
    Ok(())
}

/// After all lives everything that was durable is processed or counted as lost.
async fn check(disk: &SimDisk, options: JournalOptions, model: &mut Model) -> Result<(), String> {
    let mut stack = Stack::open(disk, options, &SPECS).map_err(|error| error.to_string())?;
    stack.journal.append(draft(&[("b", u64::MAX)], 0)).unwrap();
    model.appended.insert(u64::MAX, "b");
    stack.turn(1);
    for (at, (name, text)) in TEXTS.into_iter().enumerate() {
        let mut attachment = stack.attach(name, text);
        let mut idle = 0;
        while idle < 3 {
            let got = next(&mut attachment).await;
            idle = if got.is_empty() { idle + 1 } else { 0 };
            model.process(at, &got)?;
        }
        let snapshot = &stack.mailboxes.list()[at];
        let losses = &snapshot.counts.losses;
        let lost: u64 = Reason::ALL.into_iter().map(|reason| losses.of(reason)).sum();
        model.lost[at] = lost + snapshot.counts.unrepeatable;
        model.dropped = losses.of(Reason::Retention);
        let wanted = |number: &&u64| Pattern::new(text).unwrap().matches(model.appended[*number]);
        let missing: Vec<_> =
            model.durable.iter().filter(wanted).filter(|number| !model.processed[at].contains(number)).collect();
        if missing.len() as u64 > model.lost[at] {
            return Err(format!("{name} never got {missing:?}, and {} are counted as lost", model.lost[at]));
        }
    }
    Ok(())
}

async fn lives(seed: u64, max_bytes: u64, faults: &Faults) -> Result<u64, String> {
    let mut random = Random(seed);
    let options = || JournalOptions { max_bytes, segment_bytes: 12_000, ..small() };
    let (mut disk, mut model) = (SimDisk::new(seed), Model::default());
    for life in 0..4 {
        let last = random.below(150);
        disk.faults(|own| *own = Faults { halt_after: Some(last), ..faults.clone() });
        let result = live(&disk, options(), &mut model, &mut random).await;
        result.map_err(|error| format!("seed {seed}, life {life}, cut after {last}: {error}"))?;
        disk = if random.below(4) == 0 { disk.kill() } else { disk.crash(random.next()) };
    }
    check(&disk, options(), &mut model).await.map_err(|error| format!("seed {seed}, at the end: {error}"))?;
    Ok(model.dropped)
}

#[tokio::test(start_paused = true)]
async fn each_mailbox_gets_everything_that_was_said_to_be_durable_through_power_cuts() {
    for seed in 0..seeds(250) {
        let lost = lives(seed, 400_000, &Faults::default()).await.unwrap();
        assert_eq!(lost, 0, "seed {seed}: nothing was dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_what_mailboxes_do_not_get_is_counted_through_power_cuts() {
    let mut lost = 0;
    for seed in 0..seeds(250) {
        lost += lives(seed, 49_000, &Faults::default()).await.unwrap();
    }
    assert!(lost > 20, "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_acknowledges_before_its_sync_is_noticed() {
    let lying = Faults { lie_about_data: true, ..Faults::default() };
    let mut noticed = 0;
    for seed in 0..60 {
        noticed += u32::from(lives(seed, 400_000, &lying).await.is_err());
    }
    assert!(noticed > 3, "{noticed}");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_ahead_of_what_a_power_cut_has_left_passes_over_nothing_new() {
    let disk = SimDisk::new(1);
    let mut stack = Stack::open(&disk, small(), &["c=a"]).unwrap();
    let mut attachment = stack.attach("c", "a");
    stack.journal.append(draft(&[("a", 1)], 0)).unwrap();
    stack.engine.shared.want(stack.journal.last());
    stack.turn(1);
    for number in 2..9 {
        stack.journal.append(draft(&[("a", number)], 0)).unwrap();
    }
    let mut got = Vec::new();
    while got.len() < 8 {
        got.extend(next(&mut attachment).await);
    }
    assert!(attachment.consumed(Position::new(1, 8)));
    // The cursors are stored, and nothing of the journal after the first message.
    stack.engine.keeper.store().unwrap();
    drop((attachment, stack));
    let image = (0..100).map(|seed| disk.crash(seed)).find(|image| {
        let stack = Stack::open(image, small(), &["c=a"]).unwrap();
        stack.journal.last().number == 1
    });
    let mut stack = Stack::open(&image.unwrap(), small(), &["c=a"]).unwrap();
    let mut attachment = stack.attach("c", "a");
    stack.journal.append(draft(&[("a", 20)], 0)).unwrap();
    stack.turn(1);
    let got = next(&mut attachment).await;
    assert_eq!(got.iter().map(|(position, _, number)| (position.number, *number)).collect::<Vec<_>>(), [(2, 20)]);
}

#[tokio::test(start_paused = true)]
async fn lost_cursors_cost_repeats_and_a_lost_journal_leaves_no_mailbox_deaf() {
    let disk = SimDisk::new(1);
    let mut stack = Stack::open(&disk, small(), &["c=a"]).unwrap();
    let mut attachment = stack.attach("c", "a");
    for number in 1..4 {
        stack.journal.append(draft(&[("a", number)], 0)).unwrap();
    }
    stack.turn(1);
    let got = next(&mut attachment).await;
    assert!(attachment.consumed(got.last().unwrap().0));
    drop(attachment);
    assert!(stack.engine.close(stack.now));
    drop(stack);
    for gone in ["cursors-", "journal-"] {
        let files = disk.files().into_iter().filter(|(name, _)| !name.starts_with(gone));
        let disk = SimDisk::with(2, files);
        let mut stack = Stack::open(&disk, small(), &["c=a"]).unwrap();
        let is_journal = gone == "journal-";
        assert_eq!((stack.report.is_lost, stack.report.foreign.len()), (!is_journal, usize::from(is_journal)));
        let mut attachment = stack.attach("c", "a");
        stack.journal.append(draft(&[("a", 9)], 0)).unwrap();
        stack.turn(1);
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.extend(next(&mut attachment).await.into_iter().map(|(.., number)| number));
        }
        assert_eq!(numbers, if is_journal { vec![9] } else { vec![1, 2, 3, 9] }, "without {gone}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_broker_knows_the_streams_and_what_of_them_was_refused() {
    let disk = SimDisk::new(1);
    let options = JournalOptions { sync: Duration::from_secs(3600), ..small() };
    let mut stack = Stack::open(&disk, options, &["c=a"]).unwrap();
    let stream = |text: u64, last| {
        let draft = draft(&[("a", text)], 0);
        Draft::new(draft.frames, START_MS, Some(StreamEnd { id: [7; 16], last })).unwrap()
    };
    stack.journal.append(stream(1, 1)).unwrap();
    stack.engine.shared.want(stack.journal.last());
    stack.turn(1500);
    let range = RefusedRange { first: 2, count: 1, code: Code::NOT_ALLOWED };
    let name = StreamName::new(StreamId::new([7; 16]), "sensor");
    stack.mailboxes.refused(name.clone(), range);
    stack.journal.append(stream(2, 3)).unwrap();
    stack.engine.shared.want(stack.journal.last());
    stack.turn(1);
    for seed in 0..20 {
        let stack = Stack::open(&disk.crash(seed), small(), &["c=a"]).unwrap();
        let known = &stack.report.known[&name];
        assert_eq!((known.decided, &known.refused[..]), (3, &[range][..]), "what covers it came later");
    }
    // Written, and not durable, while the table is stored: it may be there, and is not promised.
    stack.journal.append(stream(3, 4)).unwrap();
    stack.turn(1500);
    stack.turn(1500);
    drop(stack);
    for seed in 0..50 {
        let stack = Stack::open(&disk.crash(seed), small(), &["c=a"]).unwrap();
        let known = &stack.report.known[&name];
        assert!((3..=4).contains(&known.decided), "{known:?}");
        assert_eq!(known.refused, [range]);
        let last = stack.journal.last().number;
        assert!(known.decided < 4 || last == 3, "what is known is there: {known:?}, {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attachment_waits_for_its_turn_for_messages_and_is_told_of_gaps() {
    let disk = SimDisk::new(1);
    let mut stack = Stack::open(&disk, JournalOptions { max_bytes: 49_000, ..small() }, &["c=a"]).unwrap();
    for number in 0..60 {
        stack.journal.append(draft(&[("a", number)], 1000)).unwrap();
        stack.turn(1);
    }
    let mut first = stack.attach("c", "a");
    let mail = timeout(Duration::from_millis(1), first.next(2000, &|_| true)).await.unwrap();
    let (gap, _) = mail.gap.unwrap();
    let got = next(&mut first).await;
    assert_eq!((got[0].2, got[0].0.number), (gap, gap + 1), "the first that is left");
    let mut second = stack.attach("c", "a");
    // From the same address: the second has taken over.
    assert!(second.is_owner() && !first.is_owner());
    assert_eq!(next(&mut first).await, []);
    assert_eq!(next(&mut second).await[0].0, got[0].0);
    second.end(End::Fin);
    assert!(first.is_owner());
    // The second one has got something, and ended: that may have been a crash.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut idle = 0;
    while idle < 3 {
        idle = if next(&mut first).await.is_empty() { idle + 1 } else { 0 };
    }
    // Something new wakes it.
    let journal = stack.journal.clone();
    let wait = tokio::spawn(async move {
        let mail = first.next(2000, &|_| true).await;
        messages(&mail)[0].2
    });
    tokio::task::yield_now().await;
    journal.append(draft(&[("a", 99)], 0)).unwrap();
    assert_eq!(wait.await.unwrap(), 99);
}
