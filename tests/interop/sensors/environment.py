"""Virtual environments of the real sensors, made when a test first asks for one and kept beside the suite's own."""

import fcntl
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent


def python_of(name):
    """The interpreter of the environment with the packages of requirements-NAME.txt."""
    wanted = (HERE / f"requirements-{name}.txt").read_bytes()
    directory = Path(sys.prefix).with_name(f"interop-venv-{name}")
    python, stamp = directory / "bin" / "python", directory / ".requirements"
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        # Of two at the same time one installs, and the other waits for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Written last, as in ../run: a changed pin or an interrupted install starts afresh.
        if not stamp.exists() or stamp.read_bytes() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            # What a sensor needs for more than its hpfeeds client is left out, and nothing is built.
            pip += ["--no-deps", "--only-binary", ":all:", "-r", HERE / f"requirements-{name}.txt"]
            subprocess.run(pip, check=True)
            stamp.write_bytes(wanted)
    return python
