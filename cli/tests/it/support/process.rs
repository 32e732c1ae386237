//! A child process whose output is collected and can be awaited.

use std::{
    io::{Read, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Instant,
};

use super::SOON;

/// A process whose output is collected, so that it never waits for us, and can be awaited.
pub(crate) struct Running {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Output {
    bytes: Mutex<[Vec<u8>; 2]>,
    changed: Condvar,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::between(Stdio::piped(), command, Stdio::piped())
    }

    /// With these for stdin and stdout.
    pub(crate) fn between(stdin: impl Into<Stdio>, command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The ends of pipes that are the child's alone would keep them open here.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let output = Arc::<Output>::default();
        let mut readers = vec![output.clone().collect(child.stderr.take().unwrap(), 1)];
        readers.extend(child.stdout.take().map(|stdout| output.clone().collect(stdout, 0)));
        Self { child, output, readers }
    }

    /// Writes to stdin, which stays open.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// As [`type_in`](Self::type_in), to a process that may end meanwhile.
    pub(crate) fn try_type_in(&mut self, bytes: &[u8]) {
        drop(self.child.stdin.as_mut().unwrap().write_all(bytes));
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a text on stderr, `times` times.
    pub(crate) fn wait_for_stderr_times(&self, text: &str, times: usize) {
        self.wait_until(|[_, stderr]| String::from_utf8_lossy(stderr).matches(text).count() >= times, text);
    }

    pub(crate) fn wait_for_stderr(&self, text: &str) {
        self.wait_for_stderr_times(text, 1);
    }

    /// Waits until stdout begins with this.
    pub(crate) fn wait_for_stdout(&self, expected: &[u8]) {
        self.wait_until(|[stdout, _]| stdout.starts_with(expected), &String::from_utf8_lossy(expected));
    }

    /// Waits until stdout is such; `what` names it.
    pub(crate) fn wait_for_stdout_that(&self, is: impl Fn(&[u8]) -> bool, what: &str) {
        self.wait_until(|[stdout, _]| is(stdout), what);
    }

    fn wait_until(&self, condition: impl Fn(&[Vec<u8>; 2]) -> bool, what: &str) {
        let bytes = self.output.bytes.lock().unwrap();
        let (bytes, timed_out) =
            self.output.changed.wait_timeout_while(bytes, SOON, |bytes| !condition(bytes)).unwrap();
        assert!(!timed_out.timed_out(), "no {what:?} in {:?}", bytes.each_ref().map(|b| String::from_utf8_lossy(b)));
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.output.bytes.lock().unwrap()[0].clone()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.bytes.lock().unwrap()[1].clone()).unwrap()
    }

    /// Its exit code, when it has ended and everything that it said has been read.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        self.wait_with_open_stdin()
    }

    pub(crate) fn wait_with_open_stdin(&mut self) -> Option<i32> {
        let status = self.wait_status();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status.code()
    }

    fn wait_status(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < SOON, "still running: {}", self.stderr());
            // There is no waiting with a deadline in the standard library; this is that, not a
            // guess.
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Output {
    fn collect(self: Arc<Self>, mut from: impl Read + Send + 'static, which: usize) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut chunk) {
                self.bytes.lock().unwrap()[which].extend_from_slice(&chunk[..n]);
                self.changed.notify_all();
            }
        })
    }
}
