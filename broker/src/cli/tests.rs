use std::num::{NonZeroU64, NonZeroUsize};

use clap::{ArgAction, CommandFactory as _, Parser as _, error::ErrorKind};

use crate::{
    cli::{
        arguments::Cli,
        config_file,
        output::{hints, one_line, without_passwords},
        store::Store,
        values::{parse_connections, parse_message, parse_rate, parse_rate_in_bytes, parse_size, parse_threads},
    },
    net::endpoint::Endpoint,
};

fn parse(arguments: &[&str]) -> Cli {
    Cli::try_parse_from([&["hpfeeds-broker"], arguments].concat()).unwrap()
}

#[test]
fn definition_of_the_arguments_is_sound() {
    Cli::command().debug_assert();
}

/// The arguments that come of a file of one line.
fn from_file(line: &str) -> Result<Cli, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, line).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["hpfeeds-broker", "--config", path].map(Into::into).to_vec();
    let parsed = config_file::expand(&Cli::command(), arguments).and_then(Cli::try_parse_from);
    parsed.map_err(|error| one_line(&error).replace(path, "FILE"))
}

#[test]
fn control_characters_of_arguments_are_escaped_in_errors() {
    let error = |argument: &str| one_line(&Cli::read_from(vec!["broker".into(), argument.into()]).unwrap_err());
    assert_eq!(error("--na\u{9b}me"), r"unexpected argument '--na\u{9b}me' found: did you mean --name?");
    assert!(!error("\u{7}\u{9c}x").contains(char::is_control));
}

/// Values of which each flag takes one.
const VALUES: [&str; 10] =
    ["1", "1M", "127.0.0.1:1", "tcp:port=1", "env", "drop-oldest", "json", "warn", "off", "collector=*"];

#[test]
fn a_switch_is_on_or_off_and_true_or_false_in_a_file() {
    let is_on = |cli: &Cli| {
        let text = format!("{cli:?}");
        assert_ne!(text.contains("extensions: true"), text.contains("extensions: false"));
        text.contains("extensions: true")
    };
    assert!(is_on(&parse(&[])) && is_on(&parse(&["--extensions", "on"])) && !is_on(&parse(&["--extensions=off"])));
    for (line, expected) in [("\"on\"", true), ("\"off\"", false), ("true", true), ("false", false)] {
        assert_eq!(is_on(&from_file(&format!("extensions = {line}")).unwrap()), expected, "{line}");
    }
    assert!(from_file("extensions = 1").unwrap_err().contains("possible values: on, off"));
}

#[test]
fn every_flag_is_a_key_of_the_file() {
    let without_config = |cli: Cli| format!("{cli:?}").split("config: ConfigFile").next().unwrap().to_owned();
    for arg in Cli::command().get_arguments() {
        let Some(long) = arg.get_long().filter(|long| !["config", "check-config"].contains(long)) else {
            continue;
        };
        if !arg.get_action().takes_values() {
            let expected = without_config(parse(&[&format!("--{long}")]));
            assert_eq!(without_config(from_file(&format!("{long} = true")).unwrap()), expected);
            assert_eq!(without_config(from_file(&format!("{long} = false")).unwrap()), without_config(parse(&[])));
            continue;
        }
        // A flag that requires another one will do: the file must require it in the same way.
        let is_value = |error: &clap::Error| error.kind() != ErrorKind::MissingRequiredArgument;
        let outcome = |value: &str| Cli::try_parse_from(["hpfeeds-broker", &format!("--{long}={value}")]);
        let value = VALUES.into_iter().find(|value| !outcome(value).is_err_and(|error| is_value(&error)));
        let Some(value) = value else {
            // Hidden, as it is refused.
            let error = from_file(&format!("{long} = \"x\"")).unwrap_err();
            assert!(
                arg.is_hide_set() && error.starts_with(&format!("FILE:1: invalid value 'x' for '--{long} ")),
                "none of the values that this test knows is one for --{long}: {error}"
            );
            continue;
        };
        let expected = outcome(value).map(without_config).map_err(|error| one_line(&error));
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        for key in [long.to_owned(), long.replace('-', "_")] {
            let text = if is_list { format!("{key} = [{value:?}]") } else { format!("{key} = {value:?}") };
            assert_eq!(from_file(&text).map(without_config), expected, "{text}");
            if value == "1" {
                assert_eq!(from_file(&format!("{key} = 1")).map(without_config), expected, "{text}");
            }
        }
    }
}

#[test]
fn every_flag_is_explained() {
    for arg in Cli::command().get_arguments().filter(|arg| !arg.is_hide_set()) {
        let help = arg.get_help().unwrap_or_else(|| panic!("{arg} has no help")).to_string();
        assert!(arg.get_help_heading().is_some(), "{arg} is in no group");
        assert!(!help.ends_with('.'), "the summary of {arg}: {help}");
    }
}

/// The annotated example, which is also the reference of all flags.
#[test]
fn the_example_configuration_has_every_flag() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/broker.toml");
    let example = std::fs::read_to_string(path).unwrap();
    assert!(from_file(&example).unwrap().checked().is_ok());
    let mut keys = Vec::new();
    for line in example.lines() {
        // One that is commented out is `#key = value`, prose is `# text`.
        let setting = line.strip_prefix('#').unwrap_or(line);
        if setting.starts_with(|char: char| char.is_ascii_lowercase()) {
            // Alone it may lack another flag.
            let fault = from_file(setting).err().filter(|error| error.starts_with("FILE"));
            assert_eq!(fault, None, "{setting}");
            keys.push(setting.split(' ').next().unwrap());
        }
    }
    let command = Cli::command();
    let visible = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long);
    let missing: Vec<_> =
        visible.filter(|long| !keys.contains(long) && !["config", "check-config"].contains(long)).collect();
    assert!(missing.is_empty(), "dist/broker.toml lacks {missing:?}");
}

#[test]
fn passwords_are_taken_out() {
    let cases = [
        (
            "'database+mysql://u:p@h/d' and postgresql://u:p:@q@h",
            "'database+mysql://u:***@h/d' and postgresql://u:***@h",
        ),
        ("'mysql://u:p/q@h/d' x://u:/@h", "'mysql://u:***@h/d' x://u:***@h"),
        ("mongodb://h/a@b:c http://[::1]:80/ x://u@h", "mongodb://h/a@b:c http://[::1]:80/ x://u@h"),
        ("no address: a@b", "no address: a@b"),
    ];
    for (text, expected) in cases {
        assert_eq!(without_passwords(text), expected);
    }
}

#[test]
#[cfg(feature = "sql")]
fn stores_are_told_apart_in_the_order_of_the_python_broker() {
    assert_eq!("env".parse(), Ok(Store::Env));
    assert_eq!("users.json".parse(), Ok(Store::Json("users.json".into())));
    assert_eq!("mongo.json".parse(), Ok(Store::Json("mongo.json".into())));
    for (text, place) in [
        ("sqlite", "sqlite.db"),
        ("./keys.sqlite3", "./keys.sqlite3"),
        ("database+sqlite:///x.db", "x.db"),
        ("database+postgresql+asyncpg://u:p@h/d", "postgresql://h/d"),
        ("database+mysql://u:p@h/d", "mysql://h/d"),
    ] {
        let Ok(Store::Sql(address)) = text.parse() else { panic!("{text}") };
        assert_eq!(address.to_string(), place);
    }
    for text in ["ENV", "", "sqlite3", "db"] {
        let error = text.parse::<Store>().unwrap_err();
        assert!(error.starts_with("unknown kind of key store: use env, sqlite, a file"), "{text}: {error}");
    }
}

#[test]
fn mongodb_is_a_feature() {
    let parsed = "mongodb://h/d".parse::<Store>();
    assert_eq!(parsed.is_ok(), cfg!(feature = "mongodb"));
    if let Err(error) = parsed {
        assert_eq!(error, "this hpfeeds-broker is built without MongoDB: build it with --features mongodb");
    }
}

#[test]
#[cfg(feature = "sqlite")]
fn the_usual_store_is_that_of_the_python_broker() {
    assert_eq!(parse(&[]).checked().unwrap().auth, ["sqlite".parse().unwrap()]);
    assert_eq!(parse(&["--auth=env"]).checked().unwrap().auth, [Store::Env]);
    assert_eq!(parse(&["--dev"]).checked().unwrap().auth, []);
}

#[test]
#[cfg(not(feature = "sqlite"))]
fn usual_store_without_its_feature_is_a_fault_of_one_line() {
    let missing = "this hpfeeds-broker is built without SQLite: build it with --features sqlite";
    let error = one_line(&parse(&[]).checked().unwrap_err());
    assert_eq!(error, format!("{missing}, or say with --auth or --dev where the keys are"));
    assert_eq!("keys.db".parse::<Store>().unwrap_err(), missing);
    assert_eq!(parse(&["--dev"]).checked().unwrap().auth, []);
    assert_eq!(parse(&["--auth=env"]).checked().unwrap().auth, [Store::Env]);
}

#[test]
#[cfg(not(feature = "_sql"))]
fn databases_are_a_feature() {
    let error = "database+mysql://u:hunter2@h/d".parse::<Store>().unwrap_err();
    assert_eq!(error, "this hpfeeds-broker is built without databases: build it with --features sql");
}

#[test]
#[cfg(feature = "sql")]
fn an_address_that_is_wrong_does_not_show_its_password() {
    for arguments in [["--auth", "database+postgresql://u:hun/ter2@h/d"], ["--auth", "database+oracle://u:hunter2@h/d"]]
    {
        let error = Cli::try_parse_from([&["hpfeeds-broker"], &arguments[..]].concat()).unwrap_err();
        let (line, all) = (one_line(&error), format!("{error} {error:?}"));
        assert!(line.starts_with("--auth: ") && !all.contains("hunter2") && !all.contains("ter2"), "{all}");
    }
    assert!(!format!("{:?}", parse(&["--auth", "database+mysql://u:hunter2@h/d"])).contains("hunter2"));
    let set = ["keys", "set", "bob", "--secret", "hunter2"];
    assert!(!format!("{:?}", parse(&set)).contains("hunter2"));
}

#[test]
fn endpoints_have_defaults() {
    assert_eq!(parse(&["--auth=env"]).endpoints(), [Endpoint::tcp("0.0.0.0", 20000)]);
    assert_eq!(parse(&["--dev"]).endpoints(), [Endpoint::tcp("127.0.0.1", 20000)]);
    assert_eq!(parse(&["--dev", "-p1"]).endpoints(), [Endpoint::tcp("127.0.0.1", 1)]);
    assert_eq!(parse(&["--dev", "--bind", "[::1]:2"]).endpoints(), [Endpoint::tcp("::1", 2)]);
    let both = parse(&["--bind=1.2.3.4:5", "-e", "tcp:port=6", "--endpoint=tcp:port=7"]);
    let expected = [Endpoint::tcp("1.2.3.4", 5), Endpoint::tcp("0.0.0.0", 6), Endpoint::tcp("0.0.0.0", 7)];
    assert_eq!(both.endpoints(), expected);
}

#[test]
fn tls_files_are_for_the_address_that_is_not_an_endpoint() {
    let tls = ["--tlscert=c", "--tlskey=k"];
    let secure = |interface, port| Endpoint::tls(interface, port, "c", "k");
    assert_eq!(parse(&tls).endpoints(), [secure("0.0.0.0", 20000)]);
    let both = parse(&[&tls[..], &["--bind=1.2.3.4:5", "-e=tcp:port=6"]].concat());
    assert_eq!(both.endpoints(), [secure("1.2.3.4", 5), Endpoint::tcp("0.0.0.0", 6)]);
    assert!(parse(&[&tls[..], &["--auth=env", "-e=tcp:port=6"]].concat()).checked().is_err());
    assert!(Cli::try_parse_from(["hpfeeds-broker", "--tlskey=k"]).is_err());
}

#[test]
fn dev_broker_listens_on_the_loopback_interface_only() {
    for bind in ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "localhost:1"] {
        assert!(parse(&["--dev", "--bind", bind]).checked().is_ok(), "{bind}");
    }
    for bind in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"] {
        let error = parse(&["--dev", "--bind", bind]).checked().unwrap_err().to_string();
        assert!(error.contains("loopback interface only"), "{bind}: {error}");
        assert!(parse(&["--auth=env", "--bind", bind]).checked().is_ok(), "{bind}");
    }
    assert!(parse(&["--dev", "-e", "tcp:port=1"]).checked().is_err());
}

#[test]
fn sizes_fit_the_machine_and_messages_a_frame() {
    assert_eq!(parse_size("1GiB"), Ok(1 << 30));
    assert_eq!(parse_message("10m"), Ok(10 << 20));
    assert_eq!(parse_message("4G"), Err("too large: a frame holds less than 4G"));
}

#[test]
fn limit_of_zero_is_refused() {
    assert_eq!(parse_connections("1").map(NonZeroUsize::get), Ok(1));
    assert_eq!(parse_rate("1000").map(NonZeroU64::get), Ok(1000));
    assert_eq!(parse_rate_in_bytes("1k").map(NonZeroU64::get), Ok(1024));
    assert_eq!(parse_connections("0"), Err("must be at least 1".to_owned()));
    assert_eq!(parse_rate("0"), Err("must be at least 1".to_owned()));
    assert_eq!(parse_rate_in_bytes("0"), Err("must be at least 1"));
    for text in ["", "-1", "1.5", "x"] {
        assert!(parse_connections(text).is_err() && parse_rate(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn threads_are_counted() {
    for text in ["", "0", "-1", "1025", "two"] {
        assert_eq!(parse_threads(text), Err("not a number from 1 to 1024".to_owned()), "{text}");
    }
    let workers = |arguments: &[&str]| {
        let runtime = parse(arguments).runtime().unwrap();
        let workers = runtime.metrics().num_workers();
        runtime.shutdown_background();
        workers
    };
    assert_eq!(workers(&["--dev"]), 1);
    assert_eq!(workers(&["--dev", "--threads=3"]), 3);
}

#[test]
fn the_hints_name_a_host_that_can_be_connected_to() {
    for (addr, host) in
        [("127.0.0.1:20000", "localhost"), ("[::1]:20000", "localhost"), ("127.0.0.2:20000", "127.0.0.2")]
    {
        let command = format!("hpfeeds --host {host} -p 20000 -i dev -s dev -c test");
        let expected = format!("subscribe with: {command} subscribe\npublish with:   {command} publish 'hello'\n");
        assert_eq!(hints(addr.parse().unwrap()), expected);
    }
}
