//! The floors of library, broker and tool: imports run downwards.

use std::{fs, path::Path};

#[path = "../support/imports.rs"]
mod checker;

/// The library, from the top floor down.
const LIBRARY: &[&[&str]] = &[
    &["lib"],
    &["client/mod"],
    &["client/blocking"],
    &[
        "client/merge",
        "client/options",
        "client/consume",
        "client/access",
        "client/channel_stream",
        "client/dispatch",
        "client/json",
    ],
    &["client/session"],
    &["client/handle"],
    &["client/publisher", "client/driver"],
    &["client/connection"],
    &["client/driver/reconnect", "client/driver/addresses"],
    &["client/driver/spooling"],
    &["client/driver/desired"],
    &["client/queue", "client/config", "client/event", "client/driver/wanted"],
    &["client/connect", "client/driver/backoff", "client/receipt", "client/mailbox", "client/wait"],
    &["client/environment"],
    &["client/connect/url"],
    &["client/error"],
    &["client/mailbox_fault"],
    &["client/connect/addr", "client/connect/tls/fault"],
    &["client/spool"],
    &["client/when_full"],
    &["log"],
    &["wire", "x509", "units", "visible"],
];

/// The broker.
const BROKER: [&[&str]; 22] = [
    &["lib", "main", "fuzzing"],
    &["cli"],
    &["relay"],
    &["broker"],
    &["builder"],
    &["background", "data_folder"],
    &["accept"],
    &["session"],
    &["view"],
    &["context", "control"],
    &["measure"],
    &["http"],
    &["config"],
    &["streams"],
    &["journal"],
    &["identity", "routing", "link"],
    &["delivery"],
    &["presence", "incidents", "tap"],
    &["limits"],
    &["metrics"],
    &["auth", "net", "error"],
    &["util"],
];

/// The tool.
const TOOL: [&[&str]; 9] = [
    &["main"],
    &["dispatch"],
    &["completions", "man", "publish", "sendfile", "subscribe", "bench", "demo", "doctor", "spool", "top"],
    &["lines"],
    &["output", "sending", "watch"],
    &["link", "ndjson", "record"],
    &["columns"],
    &["args", "save", "stdin", "signals"],
    &[
        "connection",
        "delivery",
        "bench/args",
        "demo/args",
        "doctor/args",
        "spool/args",
        "top/args",
        "subscribe/args",
        "subscribe/condition",
        "subscribe/field",
        "subscribe/json",
        "beginning",
        "bench/batch",
        "channels",
        "escape",
        "exit",
        "pace",
        "profile",
        "terminal",
        "values",
        "words",
    ],
];

/// The benchmark `compare`: a floor below `main`, in which no two files need each other.
const COMPARE: [&[&str]; 2] = [
    &["main"],
    &[
        "acks",
        "arguments",
        "extension",
        "growth",
        "isolation",
        "kind",
        "laggards",
        "measure",
        "poller",
        "programs",
        "protocol",
        "receiver",
        "relay",
        "report",
        "run",
        "sender",
        "server",
        "storage",
        "work",
    ],
];

#[test]
fn imports_of_the_library_run_downwards() {
    assert_downwards("src", LIBRARY);
}

#[test]
fn imports_of_the_broker_run_downwards() {
    assert_downwards("broker/src", &BROKER);
}

#[test]
fn imports_of_the_tool_run_downwards() {
    assert_downwards("cli/src", &TOOL);
}

#[test]
fn imports_of_the_benchmark_run_downwards() {
    assert_downwards("benches/compare", &COMPARE);
}

fn assert_downwards(src: &str, floors: &[&[&str]]) {
    let found = checker::violations(&Path::new(env!("CARGO_MANIFEST_DIR")).join(src), floors);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Checks a crate of these files.
fn check(files: &[(&str, &str)], floors: &[&[&str]]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    checker::violations(folder.path(), floors)
}

#[test]
fn an_import_that_climbs_is_found_with_its_line() {
    let top = ("top/mod.rs", "use crate::low::Thing;\n");
    let floors: [&[&str]; 3] = [&["lib"], &["top"], &["low"]];
    for (low, line) in [
        ("use std::fmt;\n\nuse crate::top::Other;\n", 3),
        ("use crate::{\n    low::Thing,\n    top::{Other, self},\n};\n", 3),
        ("use super::top;\n", 1),
        ("\nfn f() -> crate::top::Other {}\n", 2),
        ("#[cfg(all(test, unix))]\nmod tests { use crate::top; }\nuse crate::top::Other;\n", 3),
        ("#[cfg(test)]\nmod tests { use crate::top; }\nuse crate::top::Other as Lost;\n", 3),
        ("const QUOTE: char = '\"'; const TEXT: &str = r#\"\"\"#; /* \" */\nuse crate::top::*;\n", 2),
    ] {
        let found = check(&[top, ("lib.rs", ""), ("low.rs", low)], &floors);
        assert!(
            found
                .iter()
                .any(|one| one.starts_with(&format!("low.rs:{line}: `")) && one.contains("climbs to top/mod.rs")),
            "{low}: {found:?}"
        );
    }
    for low in [
        "// use crate::top::Other;\nconst TEXT: &str = \"crate::top::Other\";\n",
        "#[cfg(test)]\nmod tests {\n    use crate::top::Other;\n}\n",
        "#[cfg(test)]\nuse crate::top::Other;\n",
        "use other::top::Other;\n",
    ] {
        let found = check(&[top, ("lib.rs", ""), ("low.rs", low)], &floors);
        assert!(found.is_empty(), "{low}: {found:?}");
    }
}

#[test]
fn circles_of_files_and_imports_through_the_face_are_found() {
    let lib = ("lib.rs", "pub use folder::Thing;\n");
    let floors: [&[&str]; 2] = [&["lib"], &["folder"]];
    let folder = |face: &'static str, two: &'static str| {
        check(
            &[lib, ("folder/mod.rs", face), ("folder/one.rs", "use super::two::Other;\n"), ("folder/two.rs", two)],
            &floors,
        )
    };
    let face = "pub use self::one::{Inner as Thing, More};\npub trait Own {}\n";
    assert_eq!(folder(face, "use super::Own;\n"), [""; 0], "what a face exports is no import of its own");
    let found = folder(face, "use super::{\n    Own, Thing,\n};\n");
    assert_eq!(
        found,
        [
            "folder/two.rs:2: `super::Thing` goes through the face of folder/mod.rs",
            "folder/one.rs:1: closes a circle with folder/two.rs",
            "folder/two.rs:2: closes a circle with folder/one.rs",
        ]
    );
    let found = folder("use one::Inner;\n", "\nuse super::Own;\n");
    assert!(found.contains(&"folder/two.rs:2: closes a circle with folder/mod.rs".to_owned()), "{found:?}");
    let found = folder("use crate::Thing;\n", "");
    assert!(found.contains(&"folder/mod.rs:1: `crate::Thing` goes through the face of lib.rs".to_owned()), "{found:?}");
}

#[test]
fn files_without_a_floor_and_floors_without_a_file_are_found() {
    let found = check(&[("lib.rs", ""), ("new.rs", "")], &[&["lib"], &["gone"]]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("gone: ") && found[1] == "new.rs: is on no floor", "{found:?}");
    // Modules for tests alone need none.
    let tests =
        [("lib.rs", "#[cfg(test)]\n#[allow(unused)]\nmod tests;\n"), ("tests/mod.rs", ""), ("tests/more.rs", "")];
    assert_eq!(check(&tests, &[&["lib"]]), [""; 0]);
}
