//! What the system knows about this process: read from `/proc`, so on Linux only.

use std::fs;

use super::text::{Kind, Text};

/// Units of processor time in a second: the same on every architecture that Linux is built for today.
const TICKS: f64 = 100.0;

/// Writes the metrics that every client library of Prometheus has, as far as they can be read.
pub(super) fn render(text: &mut Text) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some([user, system, started]) = times(&stat) {
        if let Some(boot) = boot_time() {
            let help = "Start time of the process since unix epoch in seconds.";
            text.single(Kind::Gauge, "process_start_time_seconds", help, boot + started / TICKS);
        }
        let help = "Total user and system CPU time spent in seconds.";
        text.single(Kind::Counter, "process_cpu_seconds", help, (user + system) / TICKS);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = field(&status, "VmRSS:") {
        let help = "Resident memory size in bytes.";
        text.single(Kind::Gauge, "process_resident_memory_bytes", help, kilobytes * 1024);
    }
    if let Some(kilobytes) = field(&status, "VmSize:") {
        text.single(Kind::Gauge, "process_virtual_memory_bytes", "Virtual memory size in bytes.", kilobytes * 1024);
    }
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is read here.
        let open = fds.count().saturating_sub(1);
        text.single(Kind::Gauge, "process_open_fds", "Number of open file descriptors.", open);
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(fds) = field(&limits, "Max open files") {
        text.single(Kind::Gauge, "process_max_fds", "Maximum number of open file descriptors.", fds);
    }
}

/// User time, system time and start, in ticks.
fn times(stat: &str) -> Option<[f64; 3]> {
    // The second field, the name of the program, may hold anything; it ends with the last parenthesis.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some([number(11)?, number(12)?, number(19)?])
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::metrics::Exposition;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let stat = "1 (a) b 2 (c)) S 1 2 3 4 5 6 7 8 9 10 150 250 13 14 15 16 17 18 900 20";
        assert_eq!(times(stat), Some([150.0, 250.0, 900.0]));
        assert_eq!(times("1 (a) S 1"), None);
    }

    #[test]
    fn all_are_there() {
        let mut text = Text::new(Exposition::Prometheus);
        render(&mut text);
        let text = text.finish();
        assert_eq!(text.lines().filter(|line| line.starts_with("process_")).count(), 6, "{text}");
    }
}
