//! The manual pages that a program writes with `man DIR`, as man-db reads them.

use std::{fs, path::Path, process::Command};

use crate::skip::skip;

/// The names of the pages that the program writes into a new folder, after `man` has found nothing wrong with
/// any of them.
pub(crate) fn written(program: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program).arg("man").arg(folder.path()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = files.collect();
    names.sort();
    if Command::new("man").arg("--version").output().is_err() {
        skip("man-db");
        return names;
    }
    for name in &names {
        assert_eq!(warnings(&folder.path().join(name)), "", "{name}");
    }
    names
}

/// The warnings of `man` about a page.
fn warnings(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(page);
    let output = man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("SYNOPSIS"), "{}: {output:?}", page.display());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
