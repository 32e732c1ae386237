//! The tokens of the dashboard: who may look, and who may also read messages.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// The length of a token that is made, in bytes of randomness.
const RANDOM: usize = 16;

/// The shortest token of a file, in characters.
const MIN_TOKEN: usize = 16;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 4096;

/// The rights of a token. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Look at sensors, consumers, channels and incidents.
    View,
    /// Read what is published.
    Tail,
}

impl Scope {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Tail => "tail",
        }
    }
}

/// The tokens that count: those of a file as it was read last.
#[derive(Debug)]
pub(crate) struct CurrentTokens {
    path: Option<PathBuf>,
    current: ArcSwap<(Tokens, CancellationToken)>,
}

impl CurrentTokens {
    pub(crate) fn new(tokens: Tokens, path: Option<PathBuf>) -> Self {
        Self { path, current: ArcSwap::from_pointee((tokens, CancellationToken::new())) }
    }

    /// The rights of a token, if it is one.
    pub(crate) fn scope(&self, token: &str) -> Option<Scope> {
        self.current.load().0.scope(token)
    }

    /// Cancelled once these tokens count no more.
    pub(crate) fn revoked(&self) -> CancellationToken {
        self.current.load().1.clone()
    }

    /// Reads the file again. When it cannot be read, the tokens stay as they were. Blocks.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let tokens = Tokens::read(path)?.ok_or_else(|| fault(path, &"it is gone"))?;
        if tokens != self.current.load().0 {
            let before = self.current.swap(Arc::new((tokens, CancellationToken::new())));
            before.1.cancel();
        }
        Ok(())
    }
}

/// A token for each scope.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    view: String,
    tail: String,
}

impl Tokens {
    /// New tokens.
    pub(crate) fn make() -> io::Result<Self> {
        Ok(Self { view: random()?, tail: random()? })
    }

    /// The tokens of a file, which is made with new ones where it is missing, readable for this user alone;
    /// then the second value is true. The error is one line that names the file. Blocks.
    pub(crate) fn open(path: &Path) -> Result<(Self, bool), String> {
        if let Some(tokens) = Self::read(path)? {
            return Ok((tokens, false));
        }
        let tokens = Self::make().map_err(|cause| fault(path, &cause))?;
        tokens.store(path).map_err(|cause| fault(path, &cause))?;
        Ok((tokens, true))
    }

    /// The tokens of a file: a line `view TOKEN` and a line `tail TOKEN`. `None` when there is no file.
    fn read(path: &Path) -> Result<Option<Self>, String> {
        let file = match fs::File::open(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|cause| fault(path, &cause))?,
        };
        if !is_private(&file.metadata().map_err(|cause| fault(path, &cause))?) {
            return Err(fault(path, &"others can read it: chmod 600"));
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|cause| fault(path, &cause))?;
        Self::parse(&text).map(Some).map_err(|cause| fault(path, &cause))
    }

    /// No error quotes the text.
    fn parse(text: &str) -> Result<Self, String> {
        let token = |scope: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once(' '));
            let token = lines.find(|(name, _)| *name == scope).map(|(_, token)| token.trim().to_owned());
            let token = token.ok_or_else(|| format!("there is no line `{scope} TOKEN`"))?;
            if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(format!("the token for {scope} needs {MIN_TOKEN} letters and digits, or more"));
            }
            Ok(token)
        };
        let (view, tail) = (token("view")?, token("tail")?);
        if view == tail {
            return Err("view and tail need two tokens".to_owned());
        }
        Ok(Self { view, tail })
    }

    /// Beside it first: a full disk or a power cut leaves no file that is half one.
    fn store(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&beside)?;
        let written = file
            .write_all(format!("view {}\ntail {}\n", self.view, self.tail).as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, path));
        if written.is_err() {
            // The error says what is wrong.
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// The rights of a token, if it is one.
    pub(crate) fn scope(&self, token: &str) -> Option<Scope> {
        // Both are compared, whichever it is.
        let is = |known: &str| bool::from(token.as_bytes().ct_eq(known.as_bytes()));
        let (view, tail) = (is(&self.view), is(&self.tail));
        if tail { Some(Scope::Tail) } else { view.then_some(Scope::View) }
    }

    /// The token that may do everything, to be shown once to the person who has started the broker.
    pub(crate) fn all(&self) -> &str {
        &self.tail
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

fn fault(path: &Path, cause: &dyn fmt::Display) -> String {
    format!("tokens of the dashboard {}: {cause}", path.display())
}

fn random() -> io::Result<String> {
    let mut bytes = [0; RANDOM];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or_default();
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

#[cfg(unix)]
fn is_private(metadata: &fs::Metadata) -> bool {
    // The digits of the group and of all others.
    std::os::unix::fs::MetadataExt::mode(metadata).is_multiple_of(0o100)
}

#[cfg(not(unix))]
fn is_private(_: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (made, is_new) = Tokens::open(&path).unwrap();
        let (read, is_new_too) = Tokens::open(&path).unwrap();
        assert_eq!((is_new, is_new_too, &made.view, &made.tail), (true, false, &read.view, &read.tail));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((read.scope(&made.view), read.scope(&made.tail)), (Some(Scope::View), Some(Scope::Tail)));
        assert_eq!((read.scope(""), read.scope(&made.view[1..]), Scope::Tail > Scope::View), (None, None, true));
        assert!(!format!("{made:?}").contains(&made.view));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Tokens::open(&path).unwrap_err().ends_with("others can read it: chmod 600"));
    }

    #[test]
    fn tokens_that_are_replaced_count_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (made, _) = Tokens::open(&path).unwrap();
        let current = CurrentTokens::new(made.clone(), Some(path.clone()));
        let revoked = current.revoked();
        current.reload().unwrap();
        assert!(!revoked.is_cancelled(), "nothing has changed");
        fs::remove_file(&path).unwrap();
        assert!(current.reload().unwrap_err().ends_with("it is gone"));
        assert_eq!(current.scope(made.all()), Some(Scope::Tail));
        let (new, _) = Tokens::open(&path).unwrap();
        current.reload().unwrap();
        assert_eq!((current.scope(made.all()), current.scope(new.all())), (None, Some(Scope::Tail)));
        assert!(revoked.is_cancelled() && !current.revoked().is_cancelled());
        CurrentTokens::new(made, None).reload().unwrap();
    }

    #[test]
    fn a_wrong_file_is_named_and_not_quoted() {
        for (text, expected) in [
            ("", "there is no line `view TOKEN`"),
            ("view 0123456789abcdef\n", "there is no line `tail TOKEN`"),
            ("view 0123456789abcde\n", "the token for view needs 16 letters and digits, or more"),
            ("view 0123456789abcde;\n", "the token for view needs 16 letters and digits, or more"),
            ("view 0123456789abcdef\ntail 0123456789abcdef", "view and tail need two tokens"),
        ] {
            assert_eq!(Tokens::parse(text).unwrap_err(), expected);
        }
        let tokens = Tokens::parse("# mine\n view  0123456789abcdef \ntail 0123456789abcdeg\n").unwrap();
        assert_eq!(tokens.scope("0123456789abcdef"), Some(Scope::View));
    }
}
