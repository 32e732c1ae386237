//! Metrics of this process, as every client library of Prometheus has them: from `/proc`, so on Linux only.

#[cfg(target_os = "linux")]
use super::text::Kind;
use super::text::Text;

/// Writes the metrics that can be read.
#[cfg(target_os = "linux")]
pub(super) fn render(text: &mut Text) {
    let Ok(process) = procfs::process::Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        if let Ok(boot) = procfs::boot_time_secs() {
            let help = "Start time of the process since unix epoch in seconds.";
            let start = seconds(boot * procfs::ticks_per_second() + stat.starttime);
            text.single(Kind::Gauge, "process_start_time_seconds", help, start);
        }
        let help = "Total user and system CPU time spent in seconds.";
        text.single(Kind::Counter, "process_cpu_seconds", help, seconds(stat.utime + stat.stime));
    }
    let status = process.status().ok();
    if let Some(kibibytes) = status.as_ref().and_then(|status| status.vmrss) {
        let help = "Resident memory size in bytes.";
        text.single(Kind::Gauge, "process_resident_memory_bytes", help, kibibytes * 1024);
    }
    if let Some(kibibytes) = status.and_then(|status| status.vmsize) {
        text.single(Kind::Gauge, "process_virtual_memory_bytes", "Virtual memory size in bytes.", kibibytes * 1024);
    }
    // Neither the descriptor of `process` nor that of the directory that is read here counts.
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        let open = fds.count().saturating_sub(2);
        text.single(Kind::Gauge, "process_open_fds", "Number of open file descriptors.", open);
    }
    if let Ok(limits) = process.limits()
        && let procfs::process::LimitValue::Value(fds) = limits.max_open_files.soft_limit
    {
        text.single(Kind::Gauge, "process_max_fds", "Maximum number of open file descriptors.", fds);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn render(_text: &mut Text) {}

#[cfg(target_os = "linux")]
#[allow(clippy::cast_precision_loss, reason = "2^53 ticks are a million years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::metrics::Exposition;

    #[test]
    fn all_metrics_of_the_process_are_rendered() {
        let mut text = Text::new(Exposition::Prometheus);
        render(&mut text);
        let text = text.finish();
        assert_eq!(text.lines().filter(|line| line.starts_with("process_")).count(), 6, "{text}");
    }
}
