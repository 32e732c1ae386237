//! What a process has used so far, as Linux tells it. Elsewhere nothing is known.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Ticks of `/proc/PID/stat` per second: a constant of the interface.
const TICKS: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// As the clock ticks have it: user and system time.
    ticked: Duration,
    /// As the scheduler has it, to the nanosecond, for the threads that run now; zero when it is not kept.
    scheduled: Duration,
    /// Memory that is resident, in bytes.
    pub(super) rss: u64,
}

impl Usage {
    pub(super) fn of(pid: Option<u32>) -> Option<Self> {
        let pid = pid?;
        let process = Path::new("/proc").join(pid.to_string());
        let ticked = ticked(&fs::read_to_string(process.join("stat")).ok()?)?;
        let rss = rss(&fs::read_to_string(process.join("status")).ok()?)?;
        Some(Self { ticked, scheduled: scheduled(&process.join("task")), rss })
    }

    /// CPU time since an earlier look.
    pub(super) fn cpu_since(self, earlier: Self) -> Duration {
        let ticked = self.ticked.saturating_sub(earlier.ticked);
        let scheduled = self.scheduled.saturating_sub(earlier.scheduled);
        // A thread that has ended takes its time out of the sum; and some systems keep no such sum.
        if scheduled + Duration::from_millis(40) < ticked { ticked } else { scheduled }
    }
}

/// Fields 14 and 15; the second may hold anything, but ends with the last parenthesis.
fn ticked(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS)))
}

/// Measures from its start on: the time, the broker's process when it is known, and this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    pub(super) started: Instant,
    pid: Option<u32>,
    broker: Option<Usage>,
    own: Option<Usage>,
}

/// What was used meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    pub(super) broker_cpu: Option<Duration>,
    /// At the end.
    pub(super) broker_rss: Option<u64>,
    pub(super) own_cpu: Option<Duration>,
}

impl Meter {
    pub(super) fn start(pid: Option<u32>) -> Self {
        let own = Usage::of(Some(std::process::id()));
        Self { broker: Usage::of(pid), own, pid, started: Instant::now() }
    }

    pub(super) fn stop(self) -> Measured {
        let elapsed = self.started.elapsed();
        let (broker, own) = (Usage::of(self.pid), Usage::of(Some(std::process::id())));
        let between = |before: Option<Usage>, after: Option<Usage>| Some(after?.cpu_since(before?));
        Measured {
            elapsed,
            broker_cpu: between(self.broker, broker),
            broker_rss: broker.map(|usage| usage.rss),
            own_cpu: between(self.own, own),
        }
    }
}

/// The line `VmRSS:     1234 kB`.
fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn scheduled(tasks: &Path) -> Duration {
    let Ok(tasks) = fs::read_dir(tasks) else { return Duration::ZERO };
    let of_one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.flatten().filter_map(of_one).sum()
}

/// Lets this process hold so many connections, if the system permits.
pub(super) fn allow_connections(count: u64) -> Result<(), String> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let wanted = count + 64;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current.is_some_and(|current| current < wanted) {
            let raised = Rlimit { current: Some(wanted), maximum };
            setrlimit(Resource::Nofile, raised).map_err(|_| {
                let most = maximum.unwrap_or_default();
                format!("{count} connections need {wanted} open files, but the limit is {most}: raise ulimit -n")
            })?;
        }
    }
    Ok(())
}

/// Lets this thread be woken up when it asked for, not up to 50 µs later.
pub(super) fn wake_punctually() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "1 (a) b (c) S 1 1 1 0 -1 4194560 1 1 1 1 123 45 0 0 20 0 1 0";
        assert_eq!(ticked(stat), Some(Duration::from_millis(1680)));
        assert_eq!(rss("Name:\tx\nVmRSS:\t    12 kB\nRssAnon: 1 kB\n"), Some(12288));
        assert_eq!((ticked("1 (a) S"), rss("Name: x")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let before = Usage::of(Some(std::process::id())).unwrap();
        let mut x = 1_u64;
        for n in 0..100_000_000 {
            x = std::hint::black_box(x ^ n);
        }
        let after = Usage::of(Some(std::process::id())).unwrap();
        assert!(after.rss > 0 && after.cpu_since(before) > Duration::ZERO, "{before:?} {after:?}");
    }
}
