use std::time::Duration;

use clap::CommandFactory as _;

use super::{
    values::{parse_message, parse_seconds, parse_size},
    *,
};

fn parse(arguments: &[&str]) -> Cli {
    Cli::try_parse_from([&["hpfeeds-broker"], arguments].concat()).unwrap()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn stores_are_told_apart_in_the_order_of_the_python_broker() {
    assert_eq!("env".parse(), Ok(Store::Env));
    assert_eq!("users.json".parse(), Ok(Store::Json("users.json".into())));
    assert_eq!("mongo.json".parse(), Ok(Store::Json("mongo.json".into())));
    let cases = [
        ("mongodb://h/d", "MongoDB is not supported yet"),
        ("database+sqlite:///x.db", "an SQL database is not supported yet"),
        ("sqlite", "SQLite is not supported yet"),
        ("./keys.sqlite3", "SQLite is not supported yet"),
        ("keys.db", "SQLite is not supported yet"),
        ("ENV", "unknown kind of key store"),
        ("", "unknown kind of key store"),
    ];
    for (text, expected) in cases {
        let error = text.parse::<Store>().unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
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
fn dev_is_for_the_loopback_interface() {
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
fn sizes_and_times() {
    let sizes = [("0", 0), ("17", 17), ("64k", 65536), ("1K", 1024), ("2M", 2 << 20), ("1G", 1 << 30)];
    for (text, expected) in sizes {
        assert_eq!(parse_size(text), Ok(expected), "{text}");
    }
    for text in ["", "k", "-1", "1.5M", "1T", "1 M", "1é", "99999999999999999999", "99999999999999G"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
    assert_eq!(parse_message("4G"), Err("too large: a frame holds less than 4G".to_owned()));
    assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
    for text in ["", "-1", "1s", "NaN", "inf"] {
        assert!(parse_seconds(text).is_err(), "{text}");
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
