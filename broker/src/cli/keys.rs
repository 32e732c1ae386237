//! `hpfeeds-broker keys`: adds, lists, changes and removes keys.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use hpfeeds::{environment, units::period, visible::acts_on_a_terminal};

use super::{
    honeypots::{Account, Configuration, Honeypot},
    store::{Store, StoreParser},
};
use crate::auth::admin::{Change, Entry, Fields, Keys, Listing, from_json, remarks, to_json};

/// Add, list, change and remove keys, in SQLite files, databases and JSON files
///
/// A running broker sees a change by itself, and for live connections within --recheck-keys.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct KeysCommand {
    /// Where the keys are, as for the broker: sqlite (the file sqlite.db here), a file that ends in
    /// .json, .db, .sqlite or .sqlite3, or database+postgresql://…, database+mysql://…,
    /// database+sqlite:///… [default: sqlite]
    // No default of clap, which a program without SQLite could not have.
    #[arg(long, global = true, value_name = "STORE", value_parser = StoreParser)]
    auth: Option<Store>,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a key. Without a secret, a random one is made, and printed this once
    Add {
        /// The ident that it is for
        ident: String,
        #[command(flatten)]
        fields: Given,
        #[command(flatten)]
        target: Target,
    },
    /// Change the given fields of a key; the others stay
    Set {
        /// The ident of the key
        ident: String,
        #[command(flatten)]
        fields: Given,
        #[command(flatten)]
        changes: Changes,
    },
    /// Refuse all clients with a key, and keep it. The broker ends its connections (see
    /// --recheck-keys)
    Disable {
        /// The ident of the key
        ident: String,
    },
    /// Enable a disabled key, with the secret that it had
    Enable {
        /// The ident of the key
        ident: String,
    },
    /// List all keys, without their secrets
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    Show {
        /// The ident of the key
        ident: String,
        /// With its secret
        #[arg(long)]
        secret: bool,
    },
    /// Remove a key. The broker ends the connections that it has (see --recheck-keys)
    Remove {
        /// The ident of the key
        ident: String,
    },
    /// Write all keys, with their secrets, in the format of JSON files
    Export {
        /// To a new file that only its owner can read, instead of stdout
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Add all keys of a file in the format of `export`, or none
    Import {
        /// The file; - for stdin
        file: PathBuf,
        /// Put them in place of keys with the same idents
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Args)]
struct Given {
    /// The person or project it belongs to
    #[arg(long)]
    owner: Option<String>,
    /// The secret. Others may see it on a command line: --secret-stdin keeps it out of there
    #[arg(long, conflicts_with = "secret_stdin")]
    secret: Option<String>,
    /// Read the secret from stdin, one line
    #[arg(long)]
    secret_stdin: bool,
    /// A channel, or a pattern such as cowrie.* or *, to publish to (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    publish: Vec<String>,
    /// A channel, or a pattern, to subscribe to (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    subscribe: Vec<String>,
}

/// The program that a new key is for.
#[derive(Debug, Args)]
struct Target {
    /// Print the configuration of this program with the key, ready to paste, instead of the secret alone
    ///
    /// Without --publish, the key may publish to the channels that the program has by itself.
    #[arg(long = "for", value_name = "PROGRAM", value_enum)]
    honeypot: Option<Honeypot>,
    /// The name or address of this broker in that configuration
    #[arg(long, value_name = "NAME", requires = "honeypot")]
    host: Option<String>,
    /// The port of this broker in that configuration
    #[arg(long, value_name = "PORT", requires = "honeypot", default_value_t = environment::DEFAULT_PORT)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Arguments about a key that exists.
#[derive(Debug, Args)]
struct Changes {
    /// It may publish nowhere
    #[arg(long, conflicts_with = "publish")]
    no_publish: bool,
    /// It may subscribe nowhere
    #[arg(long, conflicts_with = "subscribe")]
    no_subscribe: bool,
    /// Add a channel, or a pattern, to its list; --publish replaces the list (repeatable)
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["publish", "no_publish"])]
    add_publish: Vec<String>,
    /// Take one out of the list (repeatable)
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["publish", "no_publish"])]
    drop_publish: Vec<String>,
    /// Add a channel, or a pattern, to its list; --subscribe replaces the list (repeatable)
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["subscribe", "no_subscribe"])]
    add_subscribe: Vec<String>,
    /// Take one out of the list (repeatable)
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["subscribe", "no_subscribe"])]
    drop_subscribe: Vec<String>,
    /// Make a new random secret and print it
    #[arg(long, conflicts_with_all = ["secret", "secret_stdin"])]
    new_secret: bool,
    /// How long the old secret still counts beside the new one, in seconds or as 30m, 12h or 7d;
    /// without this flag, no old one does. 0 without a new secret ends the old ones that count
    #[arg(long, value_name = "TIME", value_parser = period)]
    grace: Option<Duration>,
}

/// Without the secret.
impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// An error whose text is one line.
type Failure = Box<dyn std::error::Error>;

impl KeysCommand {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let keys = self.auth.clone().map_or_else(Store::usual, Ok)?.keys()?;
        match &self.action {
            Action::Add { ident, fields, target } => add(&keys, ident, fields, target).await,
            Action::Set { ident, fields, changes } => set(&keys, ident, fields, changes).await,
            Action::Disable { ident } => able(&keys, ident, false).await,
            Action::Enable { ident } => able(&keys, ident, true).await,
            Action::List { json } => {
                let listing = keys.listing().await?;
                let entries = &listing.entries;
                print(&if *json { as_json(entries) } else { as_table(entries) })?;
                say(&listing.remarks);
                complete(&listing)
            }
            Action::Show { ident, secret } => {
                let entry = keys.get(ident).await?.ok_or_else(|| format!("ident {ident:?} has no key"))?;
                print(&describe(&entry, *secret))
            }
            Action::Remove { ident } => Ok(keys.apply(&[Change::Remove(ident.clone())]).await?),
            Action::Export { output } => {
                let listing = keys.listing().await?;
                let text = to_json(&listing.entries)?;
                match output {
                    Some(path) => write_new(path, &text).map_err(|cause| format!("{}: {cause}", path.display()))?,
                    None => print(&text)?,
                }
                complete(&listing)
            }
            Action::Import { file, replace } => import(&keys, file, *replace).await,
        }
    }
}

/// Prints remarks on stderr.
fn say(remarks: &[String]) {
    for remark in remarks {
        eprintln!("note: {}", plain(remark));
    }
}

/// Names the keys that could not be read, a line each, after the rest; if there are any, the
/// command has failed.
fn complete(listing: &Listing) -> Result<(), Failure> {
    let Listing { entries, faults, .. } = listing;
    for fault in faults {
        eprintln!("not read: {}", plain(&fault.to_string()));
    }
    match faults.len() {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} keys cannot be read and are left out", bad + entries.len()).into()),
    }
}

async fn set(keys: &Keys, ident: &str, given: &Given, changes: &Changes) -> Result<(), Failure> {
    let secret = if changes.new_secret { Some(random_secret()?) } else { given.secret()? };
    let printed = secret.clone().filter(|_| changes.new_secret);
    let fields = Fields {
        owner: given.owner(keys, ident)?,
        secret,
        publish: list(&given.publish, changes.no_publish),
        subscribe: list(&given.subscribe, changes.no_subscribe),
        add_publish: changes.add_publish.clone(),
        drop_publish: changes.drop_publish.clone(),
        add_subscribe: changes.add_subscribe.clone(),
        drop_subscribe: changes.drop_subscribe.clone(),
        disabled: None,
        grace: changes.grace,
    };
    if fields.is_empty() {
        return Err("nothing to change: give --owner, --secret, --publish or --subscribe".into());
    }
    // About the new entries alone.
    let notes = remarks([&Entry {
        ident: ident.to_owned(),
        secret: "not looked at".to_owned(),
        publish: [given.publish.as_slice(), &changes.add_publish].concat(),
        subscribe: [given.subscribe.as_slice(), &changes.add_subscribe].concat(),
        ..Entry::default()
    }]);
    keys.apply(&[Change::Set { ident: ident.to_owned(), fields }]).await?;
    say(&notes);
    printed.map_or(Ok(()), |secret| print(&format!("{secret}\n")))
}

async fn able(keys: &Keys, ident: &str, able: bool) -> Result<(), Failure> {
    let fields = Fields { disabled: Some(!able), ..Fields::default() };
    Ok(keys.apply(&[Change::Set { ident: ident.to_owned(), fields }]).await?)
}

async fn add(keys: &Keys, ident: &str, fields: &Given, target: &Target) -> Result<(), Failure> {
    let owner = fields.owner(keys, ident)?.unwrap_or_else(|| ident.to_owned());
    let given = fields.secret()?;
    let is_new = given.is_none();
    let secret = given.map_or_else(random_secret, Ok)?;
    let may_publish = match target.honeypot {
        Some(honeypot) if fields.publish.is_empty() => honeypot.grants(),
        _ => fields.publish.clone(),
    };
    // Before there is a key, which would be in the way of another try.
    let configuration = target.configuration(ident, &secret, &may_publish, &fields.subscribe)?;
    let entry = Entry {
        ident: ident.to_owned(),
        owner,
        secret: secret.clone(),
        publish: may_publish,
        subscribe: fields.subscribe.clone(),
        ..Entry::default()
    };
    let notes = remarks([&entry]);
    keys.apply(&[Change::Add(entry)]).await?;
    say(&notes);
    match configuration {
        Some(Configuration { text, notes }) => {
            print(&text)?;
            say(&notes);
            Ok(())
        }
        None if is_new => print(&format!("{secret}\n")),
        None => Ok(()),
    }
}

impl Target {
    fn configuration(
        &self,
        ident: &str,
        secret: &str,
        publish: &[String],
        subscribe: &[String],
    ) -> Result<Option<Configuration>, String> {
        let account = Account { host: self.host.as_deref(), port: self.port, ident, secret, publish, subscribe };
        self.honeypot.map(|honeypot| honeypot.configuration(&account)).transpose()
    }
}

async fn import(keys: &Keys, file: &Path, replace: bool) -> Result<(), Failure> {
    let read = || {
        if file == Path::new("-") {
            let mut text = Vec::new();
            return io::stdin().read_to_end(&mut text).map(|_| text);
        }
        std::fs::read(file)
    };
    let fail = |cause: &dyn std::fmt::Display| format!("{}: {cause}", file.display());
    let entries =
        read().map_err(|cause| fail(&cause)).and_then(|text| from_json(&text).map_err(|cause| fail(&cause)))?;
    let lost = entries.iter().filter(|entry| !keys.has_owners() && entry.owner != entry.ident).count();
    let (count, notes) = (entries.len(), remarks(&entries));
    let changes: Vec<_> = entries.into_iter().map(if replace { Change::Put } else { Change::Add }).collect();
    keys.apply(&changes).await?;
    eprintln!("imported {count} keys");
    say(&notes);
    if lost > 0 {
        eprintln!("this store keeps no owners: those of {lost} keys are left out");
    }
    Ok(())
}

impl Given {
    fn owner(&self, keys: &Keys, ident: &str) -> Result<Option<String>, Failure> {
        match &self.owner {
            Some(owner) if !keys.has_owners() && owner != ident => {
                Err("--owner: this store keeps no owners, every ident owns itself".into())
            }
            owner => Ok(owner.clone()),
        }
    }

    fn secret(&self) -> Result<Option<String>, Failure> {
        if !self.secret_stdin {
            return match &self.secret {
                Some(secret) if secret.is_empty() => Err("the secret is empty".into()),
                secret => Ok(secret.clone()),
            };
        }
        if io::stdin().is_terminal() {
            eprint!("secret: ");
        }
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(|cause| format!("cannot read the secret from stdin: {cause}"))?;
        let secret = line.trim_end_matches(['\r', '\n']);
        if secret.is_empty() { Err("the secret on stdin is empty".into()) } else { Ok(Some(secret.to_owned())) }
    }
}

fn list(given: &[String], none: bool) -> Option<Vec<String>> {
    (none || !given.is_empty()).then(|| given.to_vec())
}

/// 192 bits in 32 characters that need no quoting in a shell, a file or an address.
fn random_secret() -> Result<String, Failure> {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|cause| format!("no randomness: {cause}"))?;
    let mut secret: String = bytes.iter().map(|byte| char::from(CHARACTERS[usize::from(byte % 64)])).collect();
    // One that starts like an option is trouble on a command line.
    if secret.starts_with('-') {
        secret.replace_range(..1, "x");
    }
    Ok(secret)
}

fn as_json(entries: &[Entry]) -> String {
    let list = entries.iter().map(|entry| {
        let Entry { ident, owner, publish, subscribe, .. } = entry;
        let state = state(entry);
        serde_json::json!({
            "ident": ident, "owner": owner, "publish": publish, "subscribe": subscribe, "state": state
        })
    });
    format!("{:#}\n", list.collect::<serde_json::Value>())
}

/// Columns with a heading. Characters that a terminal acts on are written as escapes: a name in a store
/// must not move the cursor.
fn as_table(entries: &[Entry]) -> String {
    let heading = ["IDENT", "OWNER", "PUBLISH", "SUBSCRIBE", "STATE"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let (publish, subscribe) = (channels(&entry.publish), channels(&entry.subscribe));
        [plain(&entry.ident), plain(&entry.owner), publish, subscribe, state(entry)]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|[ident, owner, publish, subscribe, state]| {
        let [i, o, p, s, _] = widths;
        format!("{ident:i$}  {owner:o$}  {publish:p$}  {subscribe:s$}  {state}").trim_end().to_owned() + "\n"
    });
    lines.collect()
}

fn describe(entry: &Entry, secret: bool) -> String {
    let Entry { ident, owner, publish, subscribe, .. } = entry;
    let secret = if secret { format!("secret:    {}\n", plain(&entry.secret)) } else { String::new() };
    let (ident, owner, publish, subscribe) = (plain(ident), plain(owner), channels(publish), channels(subscribe));
    let state = state(entry);
    let text =
        format!("ident:     {ident}\nowner:     {owner}\n{secret}publish:   {publish}\nsubscribe: {subscribe}\n");
    text + "state:     " + &state + "\n"
}

/// Whether a key lets its holder in, and for how long old secrets do.
fn state(entry: &Entry) -> String {
    if entry.disabled {
        return "disabled".to_owned();
    }
    if entry.secret.is_empty() {
        return "secret is empty".to_owned();
    }
    let now = SystemTime::now();
    let left = entry.old_secrets.iter().filter_map(|old| old.until.duration_since(now).ok());
    let left: Vec<_> = left.map(|left| left.as_secs()).collect();
    let Some(longest) = left.iter().max() else {
        return "enabled".to_owned();
    };
    let time = match longest {
        0..120 => format!("{longest} s"),
        120..7200 => format!("{} min", longest / 60),
        7200..172_800 => format!("{} h", longest / 3600),
        _ => format!("{} days", longest / 86_400),
    };
    match left.len() {
        1 => format!("old secret for another {time}"),
        many => format!("{many} old secrets for another {time}"),
    }
}

fn channels(list: &[String]) -> String {
    if list.is_empty() { "-".to_owned() } else { plain(&list.join(", ")) }
}

fn plain(text: &str) -> String {
    let escaped = |c: char| if acts_on_a_terminal(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// A file that only its owner can read. An old one is not overwritten: others may read that.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of the keys must not pass for all of them.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader, such as `head`, has closed the pipe.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed.map_err(|cause| format!("cannot write to stdout: {cause}"))?),
    }
}
