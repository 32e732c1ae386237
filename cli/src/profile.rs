//! Profiles: files with the URL of a broker and the TLS options that it needs, one for each broker.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Longer files are no profiles, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The options that a profile may set, each with a value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Not shown by anything: there may be a secret in it.
    pub(crate) url: String,
    pub(crate) tlscert: Option<PathBuf>,
    pub(crate) tls_name: Option<String>,
    pub(crate) tls_client_cert: Option<PathBuf>,
    pub(crate) tls_client_key: Option<PathBuf>,
}

impl Profile {
    /// Reads the profile of this name: `$XDG_CONFIG_HOME/hpfeeds/profiles/NAME`, by default below
    /// `~/.config`. The fault has no part of what stands in the file.
    pub(crate) fn load(name: &str) -> Result<Self, String> {
        let path = folder()?.join(file_name(name)?);
        Self::read(&path).map_err(|fault| format!("the profile {}: {fault}", path.display()))
    }

    fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => {
                "there is none: write \"url = hpfeeds://IDENT:SECRET@HOST:PORT\" to it".to_owned()
            }
            _ => cause.to_string(),
        })?;
        // Of the file that is open, so that it cannot be another one.
        let metadata = file.metadata().map_err(|cause| cause.to_string())?;
        if !metadata.is_file() {
            return Err("it is no file".to_owned());
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let mode = metadata.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(format!(
                    "others on this machine can use the secret in it (its mode is {mode:03o}): chmod 600 it, and give \
                     the broker a new secret if they may have"
                ));
            }
        }
        let mut text = String::new();
        let read = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|cause| cause.to_string())?;
        if read as u64 > LONGEST {
            return Err("it is longer than 64 KiB".to_owned());
        }
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Lines of `NAME = VALUE`; empty ones and those that begin with `#` are nothing. Relative paths
    /// begin in the folder.
    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut profile = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let value = line.split_once('=').map(|(name, value)| (name.trim_end(), value.trim_start()));
            match value {
                Some(("url", url)) => url.clone_into(&mut profile.url),
                Some(("tlscert", file)) => profile.tlscert = Some(folder.join(file)),
                Some(("tls-name", name)) => profile.tls_name = Some(name.to_owned()),
                Some(("tls-client-cert", file)) => profile.tls_client_cert = Some(folder.join(file)),
                Some(("tls-client-key", file)) => profile.tls_client_key = Some(folder.join(file)),
                _ => {
                    return Err(format!(
                        "line {number} is none of url = URL, tlscert = FILE, tls-name = NAME, tls-client-cert = FILE, \
                         tls-client-key = FILE"
                    ));
                }
            }
        }
        if profile.url.is_empty() { Err("no line says url = URL".to_owned()) } else { Ok(profile) }
    }
}

fn folder() -> Result<PathBuf, String> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let config = config.ok_or("profiles are in ~/.config/hpfeeds/profiles, and HOME is not set")?;
    Ok(config.join("hpfeeds/profiles"))
}

/// A name is no path: it stays in the folder.
fn file_name(name: &str) -> Result<&str, String> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(format!("{name:?} is no name of a profile: give that of a file in ~/.config/hpfeeds/profiles"));
    }
    Ok(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_lines_of_names_and_values() {
        let text = "# the lab\n\n url=hpfeeds://me:a=b@h \ntlscert = ca.pem\ntls-name= broker\n\
                    tls-client-cert = /etc/c.pem\ntls-client-key = k.pem\n";
        let expected = Profile {
            url: "hpfeeds://me:a=b@h".to_owned(),
            tlscert: Some("/p/ca.pem".into()),
            tls_name: Some("broker".to_owned()),
            tls_client_cert: Some("/etc/c.pem".into()),
            tls_client_key: Some("/p/k.pem".into()),
        };
        assert_eq!(Profile::parse(text, Path::new("/p")), Ok(expected));
    }

    #[test]
    fn a_fault_of_a_profile_names_its_line_and_quotes_nothing() {
        for (text, fault) in [
            ("", "no line says url"),
            ("url =", "no line says url"),
            ("url = x\nhunter2", "line 2"),
            ("hpfeeds://me:hunter2@h", "line 1"),
            ("secret = hunter2", "line 1"),
        ] {
            let said = Profile::parse(text, Path::new("")).unwrap_err();
            assert!(said.contains(fault) && !said.contains("hunter2"), "{text}: {said}");
        }
    }

    #[test]
    fn a_name_of_a_profile_is_no_path() {
        for name in ["", ".", "..", "../lab", "a/b", "/etc/passwd", ".hidden"] {
            assert!(file_name(name).unwrap_err().contains("no name of a profile"), "{name}");
        }
        assert_eq!(file_name("lab-1.example"), Ok("lab-1.example"));
    }
}
