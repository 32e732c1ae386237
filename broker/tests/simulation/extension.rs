//! The extension `hpx/1` on the simulated network: heartbeats while the broker paces a publisher, and connections with
//! one stream id on machines that lose sight of the broker.
//!
//! Each test runs many seeds, `HPFEEDS_SIM_SEEDS` of them if that is set.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use hpfeeds::wire::extension::{ClientFrame, ClientHello, Flags};
use hpfeeds::{Backoff, ClientSession, SessionState};
use hpfeeds_broker::{Broker, Key};
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};
use turmoil::net::{TcpListener, TcpStream};

use crate::{
    extension_client::{Got, Scripted, confirming, encoded, hello},
    net::{Dial, PORT},
    record::Log,
    support::{bytes, number, publish},
};

const SEEDS: u64 = 25;

fn seeds() -> u64 {
    std::env::var("HPFEEDS_SIM_SEEDS").ok().map_or(SEEDS, |text| text.parse().unwrap())
}

fn sim(seed: u64, latency: u64, tick: u64) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .tick_duration(Duration::from_millis(tick))
        .simulation_duration(Duration::from_secs(7200))
        .max_message_latency(Duration::from_millis(latency))
        .tcp_capacity(64)
        .rng_seed(seed)
        .build()
}

/// Everybody may do everything.
fn key(ident: &str) -> Key {
    Key::new(ident, "secret").unwrap().publish(["*"]).unwrap().subscribe(["*"]).unwrap()
}

fn broker(sim: &mut turmoil::Sim<'_>, client_timeout: Duration, figures: Rc<RefCell<Vec<u64>>>) {
    sim.host("broker", move || {
        let figures = figures.clone();
        async move {
            let broker = Broker::builder()
                .without_endpoint()
                .user(key("dev"))
                .user(key("sub"))
                .low_mark(16 * 1024)
                .floor_rate(1024)
                .floor_window(Duration::from_secs(3600))
                .client_timeout(client_timeout)
                .start()
                .await?;
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
            loop {
                let (tcp, peer) = listener.accept().await?;
                broker.serve(tcp, peer);
                let stats = broker.stats();
                *figures.borrow_mut() = vec![stats.accepted, stats.fenced, stats.silent];
            }
        }
    });
}

async fn connect(ident: &str, hello: ClientHello<'_>) -> Option<(Scripted<TcpStream>, u64)> {
    let tcp = timeout(Duration::from_secs(5), TcpStream::connect(("broker", PORT))).await.ok()?.ok()?;
    let mut client = Scripted::try_greeted(tcp).await?;
    let mut said = client.auth(ident, "secret");
    said.extend(encoded(&ClientFrame::Hello(hello)));
    client.stream.write_all(&said).await.ok()?;
    match timeout(Duration::from_secs(20), client.read_next()).await {
        Ok(Got::Hello(answer)) => Some((client, answer.decided)),
        _ => None,
    }
}

/// A session whose messages a subscriber takes very slowly, for half an hour: the broker reads it hardly ever, and has little
/// to say to it. Neither side takes the other for dead.
#[test]
fn heartbeats_keep_a_paced_publisher_and_its_broker_from_taking_each_other_for_dead() {
    for seed in 0..seeds().min(4) {
        let mut sim = sim(seed, 200, 100);
        broker(&mut sim, Duration::from_secs(30), Rc::default());
        sim.host("subscriber", || async {
            let asked = ClientHello { heartbeat: 0, ..hello(Flags::HEARTBEAT, 1, 1) };
            let (mut client, _) = connect("sub", asked).await.expect("nothing is wrong with the network");
            client.subscribe("c").await;
            loop {
                // It lives, and takes a message now and then.
                sleep(Duration::from_secs(9)).await;
                client.send(&encoded(&ClientFrame::Heartbeat)).await;
                assert!(matches!(client.read_next().await, Got::Publish(..) | Got::Heartbeat));
            }
        });
        let (done, states) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let (published, seen) = (done.clone(), states.clone());
        sim.client("publisher", async move {
            sleep(Duration::from_secs(1)).await;
            let log = Log::default();
            let session = log.lock().open_session("dev", String::new(), true, true);
            let session = ClientSession::builder(("broker", PORT), "dev", "secret")
                .backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(1)))
                .connector(Dial { session, log, chunk: 4096 })
                .start()?;
            let mut state = session.state();
            let watching = async {
                loop {
                    seen.borrow_mut().push(*state.borrow_and_update());
                    if state.changed().await.is_err() {
                        return;
                    }
                }
            };
            let publishing = async {
                for n in 0..u64::MAX {
                    let mut payload = n.to_be_bytes().to_vec();
                    payload.resize(4000, b'x');
                    if session.publish("c", payload).await.is_err() {
                        return;
                    }
                    published.set(n + 1);
                }
            };
            let _ = timeout(Duration::from_secs(1800), futures::future::join(watching, publishing)).await;
            Ok(())
        });
        sim.run().unwrap();
        // As much as the network and the queues hold, and what the subscriber took: it was paced to the end.
        assert!((100..5000).contains(&done.get()), "seed {seed}: {} messages", done.get());
        let states = states.take();
        let connected = states.iter().filter(|state| **state == SessionState::Connected).count();
        assert_eq!((connected, states.last()), (1, Some(&SessionState::Connected)), "seed {seed}: {states:?}");
    }
}

/// Machines that were copied: all have the stream's id, take it from each other, and lose sight of the broker at times.
/// Each publishes the numbers that its messages have by what HELLO said.
#[test]
fn every_number_of_a_stream_arrives_once_and_in_order_whoever_publishes_it() {
    const MACHINES: usize = 3;
    let mut total = [0; 3];
    for seed in 0..seeds() {
        let (mut sim, figures) = (sim(seed, 200, 20), Rc::default());
        broker(&mut sim, Duration::ZERO, Rc::clone(&figures));
        let numbers = Rc::new(RefCell::new(Vec::<u64>::new()));
        let heard = numbers.clone();
        sim.client("subscriber", async move {
            let (mut client, _) = connect("sub", hello(Flags::default(), 1, 1)).await.expect("it comes first");
            client.subscribe("c").await;
            loop {
                match client.read_next().await {
                    Got::Publish(_, payload) => match u64::from_be_bytes(*payload.first_chunk().unwrap()) {
                        u64::MAX => return Ok(()),
                        number => heard.borrow_mut().push(number),
                    },
                    other => panic!("{other:?}"),
                }
            }
        });
        let acked = Rc::new(Cell::new(0));
        for machine in 0..MACHINES {
            let acked = acked.clone();
            let mut rng = fastrand::Rng::with_seed(seed << 8 | machine as u64);
            sim.client(format!("machine-{machine}"), async move {
                sleep(Duration::from_secs(2)).await;
                for _ in 0..20 {
                    sleep(Duration::from_millis(rng.u64(0..3000))).await;
                    let before = acked.get();
                    let Some((mut client, decided)) = connect("dev", confirming(1, 1)).await else { continue };
                    assert!(decided >= before, "{decided} is decided, and {before} was acknowledged");
                    let frames =
                        (1..=rng.u64(1..40)).map(|n| publish("dev", "c", (decided + n).to_be_bytes().to_vec()));
                    if client.stream.write_all(&bytes(frames)).await.is_err() {
                        continue;
                    }
                    // For a while, or until it is fenced.
                    let until = sleep(Duration::from_millis(rng.u64(0..2000)));
                    let reading = async {
                        while let Got::Ack(number) = client.read_next().await {
                            acked.set(acked.get().max(number));
                        }
                    };
                    futures::future::select(Box::pin(until), Box::pin(reading)).await;
                }
                Ok(())
            });
        }
        let last = acked.clone();
        sim.client("last", async move {
            sleep(Duration::from_secs(150)).await;
            let (mut client, decided) = connect("dev", confirming(1, 1)).await.expect("all is well again");
            assert!(decided >= last.get());
            last.set(decided);
            client.stream.write_all(&bytes([publish("dev", "c", u64::MAX.to_be_bytes().to_vec())])).await?;
            assert_eq!(client.read_next().await, Got::Ack(decided + 1));
            Ok(())
        });
        // A machine loses sight of the broker, which still believes in its connection when the next one asks.
        let mut rng = fastrand::Rng::with_seed(!seed);
        let mut away = None;
        for step in 0..10_000u32 {
            if sim.step().unwrap() {
                break;
            }
            if step % 50 == 49 && step < 5000 {
                if let Some(machine) = away.take() {
                    sim.repair(machine, "broker");
                } else if rng.bool() {
                    let machine = format!("machine-{}", rng.usize(..MACHINES));
                    sim.partition(machine.as_str(), "broker");
                    away = Some(machine);
                }
            }
        }
        let numbers = numbers.take();
        let expected: Vec<_> = (1..=acked.get()).collect();
        assert_eq!(numbers, expected, "seed {seed}: each number once, in order");
        let figures: Vec<u64> = figures.borrow().clone();
        total[0] += numbers.len() as u64;
        total[1] += figures[0];
        total[2] += figures[1];
    }
    println!("{} messages over {} connections, of which {} were fenced", total[0], total[1], total[2]);
    assert!(total[1] > 0 && total[2] > 0 && total[0] > 0, "{total:?}");
    assert_eq!(number(&publish("dev", "c", 1u64.to_be_bytes().to_vec())), 1);
}
