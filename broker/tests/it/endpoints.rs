//! Modes and kinds of endpoints: sides for sensors and collectors, many endpoints of one broker, a shared port.

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionEvent};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, Mode};

use crate::{
    pki::{Pki, TlsPeer},
    support::{Peer, publish, start, subscribe, within},
};

fn tcp() -> Endpoint {
    Endpoint::tcp("127.0.0.1", 0)
}

/// A side for sensors, and one for collectors.
fn sides() -> BrokerBuilder {
    Broker::dev_builder().endpoint(tcp().mode(Mode::Publish)).endpoint(tcp().mode(Mode::Subscribe))
}

#[tokio::test]
async fn one_side_publishes_and_the_other_subscribes() {
    let broker = start(sides()).await;
    let (sensors, collectors) = (broker.local_addrs()[0], broker.local_addrs()[1]);
    let mut collector = Peer::login(collectors, "dev", "dev").await;
    collector.send(subscribe("dev", "c")).await;
    let mut sensor = Peer::login(sensors, "dev", "dev").await;
    // A SUBSCRIBE has no answer: this may need more than one.
    let message = publish("dev", "c", "x");
    within(async {
        loop {
            sensor.send(message.clone()).await;
            let waiting = tokio::time::timeout(std::time::Duration::from_millis(100), collector.next()).await;
            if let Ok(next) = waiting {
                break assert_eq!(next, Some(message));
            }
        }
    })
    .await;
    // Harmless, as it is for who has not subscribed.
    sensor.send(crate::support::unsubscribe("dev", "c")).await;
    sensor.send(subscribe("dev", "c")).await;
    sensor.expect_error("Authkey not allowed to sub here. ident=dev, chan=c").await;
    let mut second = Peer::login(collectors, "dev", "dev").await;
    second.send(publish("dev", "c", "x")).await;
    second.expect_error("Authkey not allowed to pub here. ident=dev, chan=c").await;
}

#[tokio::test]
async fn our_client_takes_a_refusal_for_what_it_is() {
    let broker = start(sides()).await;
    let (sensors, collectors) = (broker.local_addrs()[0], broker.local_addrs()[1]);
    let sensor = within(ClientSession::connect(sensors, "dev", "dev")).await.unwrap();
    let mut events = sensor.events();
    sensor.subscribe("c").unwrap();
    let denied = async |events: &mut hpfeeds::Events| loop {
        match events.next().await.unwrap() {
            SessionEvent::SubscribeDenied { channel, .. } => break ("subscribe", channel.unwrap()),
            SessionEvent::Refused { channel, .. } => break ("publish", channel.unwrap()),
            _ => {}
        }
    };
    assert_eq!(within(denied(&mut events)).await, ("subscribe", "c".parse().unwrap()));
    let collector = within(ClientSession::connect(collectors, "dev", "dev")).await.unwrap();
    let mut events = collector.events();
    within(collector.publish("c", "x")).await.unwrap();
    assert_eq!(within(denied(&mut events)).await, ("publish", "c".parse().unwrap()));
}

#[tokio::test]
async fn all_kinds_of_endpoints_are_one_broker() {
    let pki = Pki::new();
    let six = "tls:interface=[::1]:port=0";
    let files = format!("cert={}:key={}", pki.path("cert.pem").display(), pki.path("key.pem").display());
    let builder = Broker::dev_builder().endpoint(tcp()).endpoint(format!("{six}:{files}").parse().unwrap());
    let broker =
        start(builder.endpoint(pki.endpoint()).endpoint("tcp:interface=\\:\\:1:port=0".parse().unwrap())).await;
    let addrs = broker.local_addrs();
    assert_eq!(addrs.iter().map(std::net::SocketAddr::is_ipv6).collect::<Vec<_>>(), [false, true, false, true]);
    let config = pki.client(None);
    let mut plain = Vec::new();
    let mut secure = Vec::new();
    for (index, addr) in addrs.iter().enumerate() {
        if let 1 | 2 = index {
            secure.push(TlsPeer::subscriber(*addr, &config, "c").await);
        } else {
            let mut peer = Peer::login(*addr, "dev", "dev").await;
            peer.send(subscribe("dev", "c")).await;
            peer.settle().await;
            plain.push(peer);
        }
    }
    secure[0].send(publish("dev", "c", "x")).await;
    for peer in &mut plain {
        assert_eq!(peer.next().await, Some(publish("dev", "c", "x")));
    }
    for peer in &mut secure {
        assert_eq!(peer.next().await, Some(publish("dev", "c", "x")));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn brokers_share_a_port_when_both_want_to() {
    let first = start(Broker::dev_builder().endpoint(tcp().reuse_port(true))).await;
    let again = |reuse| Endpoint::tcp("127.0.0.1", first.local_addr().port()).reuse_port(reuse);
    let second = start(Broker::dev_builder().endpoint(again(true))).await;
    assert_eq!(second.local_addr(), first.local_addr());
    assert!(Broker::dev_builder().endpoint(again(false)).start().await.is_err());
}
