//! `hpfeeds demo`: a broker, imagined honeypots that publish to it, and a subscriber, in one process.

pub(crate) mod args;
mod events;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroU64,
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{ClientSession, Message};
use hpfeeds_broker::{Broker, Key};
use tokio::{task::JoinSet, time::sleep};

use self::{
    args::DemoArgs,
    events::{Events, SENSORS},
};
use crate::{exit::Failure, record, signals::Stop, subscribe::field::Looked};

/// The ident and the secret of the demo's consumer: for this machine only, as long as it runs.
const CONSUMER: &str = "demo";

/// How many sensors there are, for times.
#[allow(clippy::cast_possible_truncation, reason = "there are four")]
const SENSOR_COUNT: u32 = SENSORS.len() as u32;

/// How long the broker and its connections may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: DemoArgs, mut stop: Stop) -> Result<(), Failure> {
    let broker = start(&args).await?;
    let addr = broker.local_addr();
    let mut consumer = session(addr, CONSUMER).await?;
    consumer.subscribe_confirmed("*").await.map_err(|cause| Failure::new(cause.to_string()))?;
    introduce(&broker);

    let mut sensors = JoinSet::new();
    // Between two events of all, and of one sensor.
    let shift = Duration::from_secs_f64(args.rate.recip());
    let between = shift * SENSOR_COUNT;
    let mut connected = Vec::new();
    for sensor in &SENSORS {
        connected.push((sensor, session(addr, sensor.ident).await?));
    }
    for (turn, (sensor, session)) in (0..).zip(connected) {
        let events = Events::new(sensor, turn.into());
        // Not all at the same moment.
        sensors.spawn(publish(session, events, shift * turn, between));
    }
    let mut left = args.count.map_or(u64::MAX, NonZeroU64::get);
    let end = loop {
        tokio::select! {
            message = consumer.next() => match message {
                Some(message) => match print(&message) {
                    Ok(()) => {}
                    // Its reader has seen enough.
                    Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => break Ok(()),
                    Err(cause) => break Err(Failure::new(format!("cannot print: {cause}"))),
                },
                None => break Err(Failure::new("the broker of the demo has ended")),
            },
            Some(ended) = sensors.join_next() => match ended {
                Ok(Err(failure)) => break Err(failure),
                Ok(Ok(())) | Err(_) => break Err(Failure::new("a sensor of the demo has ended")),
            },
            _ = stop.requested() => break Ok(()),
        }
        left -= 1;
        if left == 0 {
            break Ok(());
        }
    };
    sensors.shutdown().await;
    let _ = tokio::time::timeout(PATIENCE, consumer.close()).await;
    let _ = tokio::time::timeout(PATIENCE, broker.shutdown()).await;
    end
}

async fn start(args: &DemoArgs) -> Result<Broker, Failure> {
    let failed = |cause: &dyn std::fmt::Display| Failure::new(format!("the broker of the demo: {cause}"));
    let key = |ident: &str| Key::new(ident, secret(ident)).map_err(|cause| failed(&cause));
    let mut builder = Broker::builder()
        .listen(args.bind)
        .map_err(|cause| failed(&cause))?
        .dashboard(args.dashboard)
        .map_err(|cause| failed(&cause))?
        .user(key(CONSUMER)?.subscribe(["*"]).map_err(|cause| failed(&cause))?);
    for sensor in &SENSORS {
        builder = builder.user(key(sensor.ident)?.publish(["*"]).map_err(|cause| failed(&cause))?);
    }
    builder.start().await.map_err(|cause| failed(&cause))
}

/// The secret of a key of the demo, which is no secret.
fn secret(ident: &str) -> String {
    format!("{ident}-secret")
}

async fn session(addr: SocketAddr, ident: &str) -> Result<ClientSession, Failure> {
    Ok(ClientSession::connect(addr, ident, secret(ident)).await?)
}

/// Says on stderr where everything is.
fn introduce(broker: &Broker) {
    let addr = broker.local_addr();
    let dashboard = match (broker.dashboard_addr(), broker.new_dashboard_token()) {
        (Some(addr), Some(token)) => format!("http://{addr}/#token={token}"),
        _ => "none".to_owned(),
    };
    let watch =
        if cfg!(feature = "top") { format!("watch      hpfeeds top --url '{dashboard}'\n") } else { String::new() };
    let names: Vec<_> = SENSORS.iter().map(|sensor| sensor.ident).collect();
    let text = format!(
        "broker     {addr}\n\
         dashboard  {dashboard}\n\
         {watch}\
         sensors    {}\n\
         subscribe  hpfeeds --host {} --port {} -i {CONSUMER} -s {} subscribe '*'\n\n\
         Ctrl-C ends all of it.\n\n",
        names.join(", "),
        addr.ip(),
        addr.port(),
        secret(CONSUMER),
    );
    // Without a stderr the events are printed all the same.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Publishes the events of a sensor, until it is dropped.
async fn publish(
    session: ClientSession,
    mut events: Events,
    delay: Duration,
    between: Duration,
) -> Result<(), Failure> {
    let channel = events.channel().map_err(|cause| Failure::new(cause.to_string()))?;
    sleep(delay).await;
    loop {
        session.publish(&channel, events.next()).await?;
        sleep(between).await;
    }
}

fn print(message: &Message) -> io::Result<()> {
    let mut line = Vec::new();
    record::format(&mut line, &record::Form::Line, &Looked::at(message), None, None)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
