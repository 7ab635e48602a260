"""What the scripts here share: building the binary, environments for Python packages, and processes that end with us."""

import hashlib
import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"

STOP_SECONDS_MAX = 20


class Failed(Exception):
    """What was to be shown did not hold, and why."""


def step(text):
    print("\n==> " + text, flush=True)


def tail(path, lines=30):
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class Child:
    """A process of ours that says on its first line of output when it is ready, and that is stopped by its own id."""

    def __init__(self, name, command, folder, environment=None):
        self.name = name
        self.log = folder / (name + ".log")
        self._lines = queue.Queue()
        with open(str(self.log), "wb") as log:
            # A session of its own: ctrl-C reaches this script, which then stops its children in order.
            self.process = subprocess.Popen(
                command,
                cwd=str(ROOT),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ready(self, seconds_max):
        """The JSON object of the first line; raises Failed with the end of the log."""
        try:
            line = self._lines.get(timeout=seconds_max)
        except queue.Empty:
            raise Failed("{} was not ready within {} s\n{}".format(self.name, seconds_max, tail(self.log)))
        if line is None:
            code = self.process.wait(timeout=STOP_SECONDS_MAX)
            raise Failed("{} ended with exit code {}\n{}".format(self.name, code, tail(self.log)))
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or said.get("ready") is not True:
            raise Failed("{} said {!r} and not that it is ready\n{}".format(self.name, line, tail(self.log)))
        return said

    def stop(self):
        """Asks it to stop, and waits; True when it went by itself."""
        if self.process.poll() is not None:
            return True
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=STOP_SECONDS_MAX)
            return True
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False


def build(profile):
    """Builds the binary, showing cargo's progress; its path. `profile` is "debug" or "release"."""
    if shutil.which("cargo") is None:
        raise Failed("cargo is not on the PATH; install Rust first")
    step("building tollgate (the first time takes some minutes)")
    command = ["cargo", "build", "--bin", "tollgate"] + (["--release"] if profile == "release" else [])
    if subprocess.call(command, cwd=str(ROOT)) != 0:
        raise Failed("the build failed")
    metadata = subprocess.check_output(
        ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"], cwd=str(ROOT)
    )
    return Path(json.loads(metadata)["target_directory"]) / profile / "tollgate"


def python_with(name, what):
    """The Python of .tools/NAME, an environment with NAME.requirements.txt in it: made on first use, whole or not at all."""
    requirements = SCRIPTS / (name + ".requirements.txt")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    home = ROOT / ".tools" / name
    python = home / "bin" / "python"
    stamp = home / "complete"
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    step("fetching " + what)
    shutil.rmtree(str(home), ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", str(home)]) != 0:
        shutil.rmtree(str(home), ignore_errors=True)
        raise Failed("python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    install += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)]
    if subprocess.call(install) != 0:
        shutil.rmtree(str(home), ignore_errors=True)
        raise Failed("pip could not install {}; see above".format(what))
    stamp.write_text(digest)
    return python
