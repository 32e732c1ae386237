"""Child processes whose output can be awaited with a deadline, and bounded polling."""

import os
import re
import signal
import subprocess
import threading
import time

DEADLINE = 15.0


def wait_until(condition, what, seconds=DEADLINE, every=0.05):
    """Polls until `condition()` is truthy and returns that; says what was waited for when it never is."""
    end = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(every)


def clean_environment(**extra):
    """The environment without HPFEEDS_ variables: a user of the env store must not leak in from outside."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HPFEEDS_")}
    # Python peers would otherwise hold their lines back until they end.
    return {**inherited, "PYTHONUNBUFFERED": "1", **extra}


class Process:
    def __init__(self, argv, env=None, cwd=None, stdin=None):
        self.argv = [str(item) for item in argv]
        self._changed = threading.Condition()
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._popen = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment() if env is None else env,
            cwd=cwd,
        )
        # Threads drain both pipes, so that a chatty child never blocks and nothing is lost when it is killed.
        self._readers = [
            threading.Thread(target=self._drain, args=(name, getattr(self._popen, name)), daemon=True)
            for name in self._output
        ]
        for reader in self._readers:
            reader.start()
        if stdin:
            self.write(stdin)

    def _drain(self, name, pipe):
        while chunk := pipe.read1(1 << 16):
            with self._changed:
                self._output[name] += chunk
                self._changed.notify_all()

    @property
    def stdout(self):
        with self._changed:
            return bytes(self._output["stdout"])

    @property
    def stderr(self):
        with self._changed:
            return self._output["stderr"].decode(errors="replace")

    @property
    def running(self):
        return self._popen.poll() is None

    def lines(self):
        """The complete lines on stdout so far."""
        return self.stdout.decode(errors="replace").split("\n")[:-1]

    def write(self, data):
        self._popen.stdin.write(data)
        self._popen.stdin.flush()

    def close_stdin(self):
        self._popen.stdin.close()

    def wait_for(self, pattern, stream="stdout", seconds=DEADLINE):
        """Waits until the output matches, and returns the match; an early end of the process is a failure."""

        def found():
            text = bytes(self._output[stream]).decode(errors="replace")
            return re.search(pattern, text, re.MULTILINE)

        end = time.monotonic() + seconds
        with self._changed:
            while not (match := found()):
                # Looked at in this order, else the last words of a process could come between the two.
                ended = not any(reader.is_alive() for reader in self._readers)
                assert not ended or found(), f"ended before {pattern!r} on {stream}:\n{self._report()}"
                assert time.monotonic() < end, f"no {pattern!r} on {stream} in {seconds} s:\n{self._report()}"
                self._changed.wait(0.1)
        return match

    def wait(self, seconds=DEADLINE):
        """The exit code; running longer is a failure."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.report()}") from None
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def signal(self, number):
        self._popen.send_signal(number)

    def terminate(self):
        self._popen.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        self._popen.kill()
        return self.wait()

    def cleanup(self):
        """Ends it if it still runs, and prints what it said, which pytest shows when the test failed."""
        if self.running:
            self.kill()
        if self._popen.stdin:
            try:
                self._popen.stdin.close()
            except BrokenPipeError:
                pass
        print(self.report())

    def report(self):
        with self._changed:
            return self._report()

    def _report(self):
        parts = [f"--- {' '.join(self.argv)} (exit code {self._popen.poll()})"]
        for name, data in self._output.items():
            # Payloads may be large; the end of the output is what explains a failure.
            parts.append(f"[{name}] {bytes(data[-4000:]).decode(errors='replace')}")
        return "\n".join(parts)
