//! Benchmark of what moving a message costs: this broker and others beside a blind relay, in
//! processor time per delivered message.
//!
//! `scripts/bench-compare` installs the others and runs this, `scripts/bench-scale` and
//! `scripts/bench-delivery` have other parts of it; `docs/dev/benchmarks.md` says what is measured and
//! how.

#[cfg(target_os = "linux")]
mod acks;
#[cfg(target_os = "linux")]
mod arguments;
#[cfg(target_os = "linux")]
mod extension;
#[cfg(target_os = "linux")]
mod growth;
#[cfg(target_os = "linux")]
mod isolation;
#[cfg(target_os = "linux")]
mod kind;
#[cfg(target_os = "linux")]
mod laggards;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod poller;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod protocol;
#[cfg(target_os = "linux")]
mod receiver;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod sender;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod storage;
#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod work;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

/// It reads the processor time of other processes from `/proc`.
#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this benchmark needs Linux");
}
