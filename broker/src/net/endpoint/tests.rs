use std::time::Duration;

use hpfeeds::Keepalive;

use crate::net::endpoint::{ClientAuth, Endpoint, Mode, network::Network};

fn parse(text: &str) -> Endpoint {
    text.parse().unwrap()
}

#[test]
fn reads_the_strings_of_the_python_broker() {
    assert_eq!(parse("tcp:interface=10.0.0.1:port=10000"), Endpoint::tcp("10.0.0.1", 10000));
    assert_eq!(parse("tcp:port=1"), Endpoint::tcp("0.0.0.0", 1));
    assert_eq!(parse("tcp:interface=0.0.0.0:port=1:device=eth0"), Endpoint::tcp("0.0.0.0", 1).device("eth0"));
    let tls = parse("tls:port=1:key=/a\\:b.pem:cert=c:chain=d:device=eth0");
    assert_eq!(tls, Endpoint::tls("0.0.0.0", 1, "c", "/a:b.pem").chain("d").device("eth0"));
    assert_eq!(parse("tls:port=1"), Endpoint::tls("0.0.0.0", 1, "cert.pem", "key.pem"));
    // As an unset variable of a compose file leaves them.
    assert_eq!(parse("tcp:port=1:interface="), Endpoint::tcp("0.0.0.0", 1));
    assert_eq!(parse("tcp:interface=:port=1:device="), Endpoint::tcp("0.0.0.0", 1));
}

#[test]
fn reads_what_the_python_broker_does_not_know() {
    let sensors = parse("tcp:port=1:mode=publish:backlog=17:reuseport=yes:recvbuf=64k:sendbuf=1M");
    let expected = Endpoint::tcp("0.0.0.0", 1).mode(Mode::Publish).backlog(17).reuse_port(true);
    assert_eq!(sensors, expected.receive_buffer(65536).send_buffer(1 << 20));
    assert_eq!(parse("tcp:port=1:extensions=off"), Endpoint::tcp("0.0.0.0", 1).extensions(false));
    assert_eq!(parse("tcp:port=1:extensions=on"), Endpoint::tcp("0.0.0.0", 1));
    assert_eq!(parse("tcp:port=1:mode=subscribe:keepalive=off").keepalive, None);
    assert_eq!(parse("tcp:port=1:mode=both:reuseport=no"), Endpoint::tcp("0.0.0.0", 1));
    let (idle, interval) = (Duration::from_secs(60), Duration::from_secs(7));
    let keepalive = Keepalive { idle, interval, retries: 9 };
    assert_eq!(parse("tcp:port=1:keepalive=60,7,9").keepalive, Some(keepalive));
    assert_eq!(parse("tcp:port=1:keepalive=60").keepalive, Some(Keepalive { idle, ..Keepalive::default() }));
    let proxied = parse("tcp:port=1:proxy=yes:proxyfrom=10.0.0.1,[fd00::1]/8");
    let expected = Endpoint::tcp("0.0.0.0", 1).proxy("10.0.0.1".parse::<Network>().unwrap());
    assert_eq!(proxied, expected.proxy("fd00::/8".parse::<Network>().unwrap()));
    assert_eq!(parse("tcp:port=1:proxy=no"), Endpoint::tcp("0.0.0.0", 1));
    let mutual = parse("tls:port=1:clientca=ca.pem:clientauth=optional");
    let expected = Endpoint::tls("0.0.0.0", 1, "cert.pem", "key.pem");
    assert_eq!(mutual, expected.clone().client_ca("ca.pem", ClientAuth::Optional));
    assert_eq!(parse("tls:port=1:clientca=ca.pem"), expected.client_ca("ca.pem", ClientAuth::Required));
}

#[test]
fn colons_are_escaped_or_bracketed() {
    assert_eq!(parse("tcp:interface=\\:\\:1:port=1"), Endpoint::tcp("::1", 1));
    assert_eq!(parse("tcp:interface=[::1]:port=1"), Endpoint::tcp("::1", 1));
}

#[test]
fn brackets_elsewhere_are_characters() {
    let tls = parse("tls:port=1:key=[a].pem:cert=b[1]:chain=[\\:]");
    assert_eq!(tls, Endpoint::tls("0.0.0.0", 1, "b[1]", "[a].pem").chain("[:]"));
    assert_eq!(tls.to_string().parse(), Ok(tls));
}

#[test]
fn display_can_be_read_back() {
    let texts = [
        "tcp:interface=\\:\\:1:port=1:device=eth0",
        "tls:port=1:chain=a\\:b",
        "tcp:port=0",
        "tcp:port=1:mode=publish:backlog=17:reuseport=yes:recvbuf=64k:sendbuf=1M:keepalive=1,2,3",
        "tls:port=1:clientca=a\\:b:clientauth=optional:mode=subscribe:keepalive=off",
        "tls:port=1:clientca=ca:keepalive=9:extensions=off",
        "tcp:port=1:keepalive=off:proxy=yes:proxyfrom=10.0.0.1,10.1.2.3/16,[fd00::1/8],\\:\\:1",
    ];
    for text in texts {
        let endpoint = parse(text);
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "{text}");
    }
}

#[test]
fn bind_takes_addresses_and_names() {
    assert_eq!(Endpoint::bind("0.0.0.0:20000"), Ok(Endpoint::tcp("0.0.0.0", 20000)));
    assert_eq!(Endpoint::bind("[::]:1"), Ok(Endpoint::tcp("::", 1)));
    assert_eq!(Endpoint::bind("localhost:0"), Ok(Endpoint::tcp("localhost", 0)));
    assert_eq!(Endpoint::bind(":20000"), Ok(Endpoint::tcp("0.0.0.0", 20000)));
}

#[test]
fn every_fault_names_the_endpoint_and_the_part() {
    let size = "a size of less than 2 GiB such as 65536, 64k or 1M";
    let networks = "a list of addresses and networks such as 10.0.0.1,10.1.0.0/16,[fd00::]/8";
    let keepalive = "IDLE or IDLE,INTERVAL,PROBES (1 to 32767 s, the same, 1 to 127) or off";
    let cases = [
        ("", r#"unknown kind "": it is tcp or tls"#.to_owned()),
        ("udp:port=1", r#"unknown kind "udp": it is tcp or tls"#.to_owned()),
        ("tcp:interface=1.2.3.4", "port is missing".to_owned()),
        ("tcp:port=x", r#"port "x" is not a number from 0 to 65535"#.to_owned()),
        ("tcp:port=65536", r#"port "65536" is not a number from 0 to 65535"#.to_owned()),
        ("tcp:port=", "port has no value".to_owned()),
        ("tcp:port=1:port=2", "port is given twice".to_owned()),
        ("tcp:port=1:prot=2:prot=3", "prot is given twice".to_owned()),
        ("tcp:prot=1", r#"unknown key "prot""#.to_owned()),
        ("tcp:port=1:key=a", "key is for tls endpoints only".to_owned()),
        ("tcp:port=1:clientca=a", "clientca is for tls endpoints only".to_owned()),
        ("tcp:1234", r#""1234" is not of the form key=value (write a colon inside a value as \:)"#.to_owned()),
        ("tcp:port=1:device=a\\", "device ends in a backslash: it would escape the colon that comes next".to_owned()),
        ("tcp:a\n=:port=1", "a\\n has no value".to_owned()),
        ("tcp:a\u{1b}=1:a\u{1b}=1", "a\\u{1b} is given twice".to_owned()),
        ("tcp:port=1:mode=push", r#"mode "push" is not publish, subscribe or both"#.to_owned()),
        ("tcp:port=1:backlog=0", r#"backlog "0" is not a number from 1 to 2147483647"#.to_owned()),
        ("tcp:port=1:backlog=2147483648", r#"backlog "2147483648" is not a number from 1 to 2147483647"#.to_owned()),
        ("tcp:port=1:reuseport=1", r#"reuseport "1" is not yes or no"#.to_owned()),
        ("tcp:port=1:extensions=no", r#"extensions "no" is not on or off"#.to_owned()),
        ("tcp:port=1:recvbuf=0", format!(r#"recvbuf "0" is not {size}"#)),
        ("tcp:port=1:recvbuf=é", format!(r#"recvbuf "é" is not {size}"#)),
        ("tcp:port=1:sendbuf=2048M", format!(r#"sendbuf "2048M" is not {size}"#)),
        ("tcp:port=1:sendbuf=2GiB", format!(r#"sendbuf "2GiB" is not {size}"#)),
        ("tcp:port=1:keepalive=0", format!(r#"keepalive "0" is not {keepalive}"#)),
        ("tcp:port=1:keepalive=1,2", format!(r#"keepalive "1,2" is not {keepalive}"#)),
        ("tcp:port=1:keepalive=1,2,128", format!(r#"keepalive "1,2,128" is not {keepalive}"#)),
        ("tcp:port=1:keepalive=on", format!(r#"keepalive "on" is not {keepalive}"#)),
        (
            "tcp:port=1:proxy=yes",
            "proxy=yes needs proxyfrom: the addresses of the proxies, such as proxyfrom=10.0.0.1 or \
             proxyfrom=10.0.0.0/8,192.0.2.1"
                .to_owned(),
        ),
        ("tcp:port=1:proxyfrom=10.0.0.1", "proxyfrom needs proxy=yes".to_owned()),
        ("tcp:port=1:proxy=no:proxyfrom=10.0.0.1", "proxyfrom needs proxy=yes".to_owned()),
        ("tcp:port=1:proxy=1:proxyfrom=10.0.0.1", r#"proxy "1" is not yes or no"#.to_owned()),
        ("tcp:port=1:proxy=yes:proxyfrom=lb", format!(r#"proxyfrom "lb" is not {networks}"#)),
        ("tcp:port=1:proxy=yes:proxyfrom=::1", "proxyfrom has no value".to_owned()),
        ("tls:port=1:clientca=a:clientauth=no", r#"clientauth "no" is not required or optional"#.to_owned()),
        (
            "tls:port=1:clientauth=optional",
            "clientauth needs clientca: a file of certificates that may sign those of clients".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert_eq!(error, format!("endpoint {text:?}: {expected}"));
    }
    let cases = [
        ("20000", r#"endpoint "20000": not of the form ADDR:PORT"#),
        ("[]:20000", r#"endpoint "[]:20000": not of the form ADDR:PORT"#),
        // Its display could not be read back.
        ("[::1:5", r#"endpoint "[::1:5": not of the form ADDR:PORT"#),
        (r"a\:5", r#"endpoint "a\\:5": not of the form ADDR:PORT"#),
        ("a:b", r#"endpoint "a:b": port "b" is not a number from 0 to 65535"#),
    ];
    for (text, expected) in cases {
        assert_eq!(Endpoint::bind(text).unwrap_err().to_string(), expected);
    }
}

/// So many connections are made that nobody accepts, and then no more: Linux adds one.
#[cfg(target_os = "linux")]
fn assert_backlog(endpoint: &str, made: usize) {
    let opened = parse(endpoint).open().unwrap();
    let addr = opened.listener.local_addr().unwrap();
    let soon = std::time::Duration::from_millis(300);
    let mut waiting = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect_timeout(&addr, soon) {
        waiting.push(client);
        assert!(waiting.len() <= made, "{} wait", waiting.len());
    }
    assert_eq!(waiting.len(), made);
}

/// The options that the system reports of a listening socket and of an accepted connection.
#[cfg(target_os = "linux")]
#[test]
fn system_reports_the_options_of_an_endpoint() {
    use socket2::SockRef;
    let opened = parse("tcp:interface=127.0.0.1:port=0:reuseport=yes:recvbuf=70000:sendbuf=50000").open().unwrap();
    let listening = SockRef::from(&opened.listener);
    assert!(listening.reuse_port().unwrap() && listening.reuse_address().unwrap());
    let addr = opened.listener.local_addr().unwrap();
    let client = std::net::TcpStream::connect(addr).unwrap();
    let (accepted, _) = opened.listener.accept().unwrap();
    // Linux doubles what it is told, for its own needs.
    assert_eq!(SockRef::from(&accepted).recv_buffer_size().unwrap(), 140_000);
    assert_eq!(SockRef::from(&accepted).send_buffer_size().unwrap(), 100_000);
    drop(client);
    let on_device = parse("tcp:interface=127.0.0.1:port=0:device=lo").open().unwrap();
    assert_eq!(SockRef::from(&on_device.listener).device().unwrap().as_deref(), Some(&b"lo"[..]));
    assert_backlog("tcp:interface=127.0.0.1:port=0:backlog=2", 3);
    let default = parse("tcp:interface=127.0.0.1:port=0").open().unwrap();
    assert!(!SockRef::from(&default.listener).reuse_port().unwrap());
    assert_eq!(default.service.keepalive, Some(Keepalive::default()));
    let quiet = parse("tcp:interface=127.0.0.1:port=0:keepalive=off:mode=publish").open().unwrap();
    assert_eq!((quiet.service.keepalive, quiet.service.mode), (None, Mode::Publish));
}
