//! The file `presence.json` of the data folder: the presence of all idents, through restarts.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

use hpfeeds::wire::Ident;
use serde::{Deserialize, Serialize};

use crate::presence::{
    MAX_IDENTS,
    record::{DAYS, Departure, Record, Stamps, Stored},
};

pub(crate) const NAME: &str = "presence.json";
const NEW: &str = "presence.json.new";

/// The longest file that is read, in bytes: ten thousand idents of 255 bytes and all that is known
/// about them take half of it.
const MAX_LEN: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Whole {
    version: u32,
    idents: HashMap<String, Entry>,
}

/// Times are in seconds since 1970, zero for none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    first: u32,
    published: u32,
    connected: u32,
    left: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    software: Option<String>,
    subscribes: bool,
    quiet: u32,
    /// The day since 1970 that the lists begin with; the others go back from there.
    day: u16,
    gaps: [u32; DAYS],
    peaks: [u32; DAYS],
}

/// The records as text.
pub(super) fn write(records: &HashMap<Ident, Record>, now: u32) -> String {
    let idents = records.iter().map(|(ident, record)| (ident.as_str().to_owned(), Entry::of(record.store(now))));
    // Numbers and texts: this cannot fail.
    serde_json::to_string(&Whole { version: 1, idents: idents.collect() }).unwrap_or_default()
}

/// Stores the text in a folder: in a file beside the old one, which it replaces. Blocks.
pub(crate) fn store(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join(NEW);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(new, folder.join(NAME))
}

/// The records of a folder: none when there is no file. An error says what is wrong with the file.
/// Blocks.
pub(crate) fn load(folder: &Path) -> Result<HashMap<Ident, Record>, String> {
    let path = folder.join(NAME);
    let fault = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
    let mut text = String::new();
    match File::open(&path) {
        Ok(file) => {
            file.take(MAX_LEN).read_to_string(&mut text).map_err(|cause| fault(&cause))?;
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(cause) => return Err(fault(&cause)),
    }
    parse(&text).map_err(|cause| fault(&cause))
}

fn parse(text: &str) -> Result<HashMap<Ident, Record>, String> {
    let whole: Whole = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
    if whole.version != 1 {
        return Err(format!("version {} is not known here", whole.version));
    }
    let entries = whole.idents.into_iter().take(MAX_IDENTS);
    let known = entries.filter_map(|(ident, entry)| Some((ident.parse().ok()?, Record::restore(&entry.stored()))));
    Ok(known.collect())
}

impl Entry {
    fn of(stored: Stored) -> Self {
        let Stamps { first, published, connected, left } = stored.stamps;
        Self {
            first,
            published,
            connected,
            left,
            reason: stored.reason.map(|reason| reason.name().to_owned()),
            peer: stored.peer.map(|peer| peer.to_string()),
            software: stored.software,
            subscribes: stored.subscribes,
            quiet: stored.quiet,
            day: stored.day,
            gaps: stored.gaps,
            peaks: stored.peaks,
        }
    }

    fn stored(self) -> Stored {
        let Self { first, published, connected, left, .. } = self;
        Stored {
            stamps: Stamps { first, published, connected, left },
            quiet: self.quiet,
            day: self.day,
            gaps: self.gaps,
            peaks: self.peaks,
            reason: self.reason.as_deref().and_then(Departure::named),
            peer: self.peer.and_then(|peer| peer.parse().ok()),
            software: self.software,
            subscribes: self.subscribes,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::metrics::session::SessionMetrics;

    #[test]
    fn records_come_back_as_they_were_when_the_broker_stopped() {
        let mut records = HashMap::new();
        let mut gone = Record::new(1_000_000);
        let session = SessionMetrics::for_test("gone");
        gone.arrive(([192, 0, 2, 1], 5).into(), session.counters().clone(), 1_000_000);
        gone.name("cowrie/2.5");
        session.published(3);
        gone.look(1_000_010, 1);
        gone.look(1_000_020, 9);
        assert!(gone.leave(session.counters(), Departure::Lifeless, 1_000_030));
        let mut there = Record::new(2_000_000);
        there.arrive("[2001:db8::1]:7".parse().unwrap(), SessionMetrics::for_test("x").counters().clone(), 2_000_001);
        there.subscribe();
        records.insert("gone".parse().unwrap(), gone);
        records.insert("\"\u{202e}there".parse().unwrap(), there);
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_empty());
        for _ in 0..2 {
            store(folder.path(), &write(&records, 3_000_000)).unwrap();
        }
        let loaded = load(folder.path()).unwrap();
        assert_eq!(loaded.len(), 2);
        let gone: &Ident = &"gone".parse().unwrap();
        assert_eq!(loaded[gone].store(4_000_000), records[gone].store(4_000_000));
        assert_eq!((loaded[gone].software(), loaded[gone].quiet()), (Some("cowrie/2.5"), 9));
        let there = &loaded[&"\"\u{202e}there".parse::<Ident>().unwrap()];
        assert_eq!((there.reason(), there.left_at(), there.is_consumer()), (Some("shutdown"), 3_000_000, true));
        assert_eq!(there.peer().unwrap().to_string(), "[2001:db8::1]:7");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for text in
            ["", "{", "{\"version\":2,\"idents\":{}}", "{\"version\":1,\"idents\":{\"a\":{\"gaps\":[1]}}}", "\u{0}"]
        {
            store(folder.path(), text).unwrap();
            let fault = load(folder.path()).unwrap_err();
            assert!(fault.contains("presence.json: "), "{fault}");
        }
        // What is missing is not known, and a name that none can have is passed over.
        store(
            folder.path(),
            "{\"version\":1,\"idents\":{\"a\":{\"first\":5,\"reason\":\"?\",\"peer\":\"?\"},\"\":{}}}",
        )
        .unwrap();
        let loaded = load(folder.path()).unwrap();
        assert_eq!((loaded.len(), loaded[&"a".parse::<Ident>().unwrap()].left_at()), (1, 5));
    }
}
