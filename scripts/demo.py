#!/usr/bin/env python3
"""Shows Tollgate at work, and checks it: build, start, submit a sample, compare every answer's cost with the ledger.

    make demo                   with the simulator, which is part of the binary
    make demo MODEL=smollm2     with a small real model on this machine; its own token counts have to match the ledger's

Exits 0 only when everything held. Everything it writes is in .demo/ (and .tools/, for what it fetches).
"""

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import nats_server

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
DEMO = ROOT / ".demo"
SAMPLE = ROOT / "tests" / "fixtures" / "demo_prompts.jsonl"
ANSWERS = DEMO / "answers.jsonl"
ERRORS = DEMO / "errors.jsonl"
TEAM = "default"

READY_SECONDS_MAX = 60
MODEL_READY_SECONDS_MAX = 180
LEDGER_SECONDS_MAX = 30
STOP_SECONDS_MAX = 20
SUBMIT_SECONDS_MAX = 600

# By itself after draining, or by the signal's own default.
STOPPED_BY_REQUEST = (0, 143, -signal.SIGTERM)

# With these few tokens each, a small model on two cores is through the sample in a minute.
REAL_TOKENS_MAX = 32
REAL_INPUT_NANO_USD = 100
REAL_OUTPUT_NANO_USD = 200
REAL_CONFIG = """\
[providers.smollm2]
kind = "compatible"
base_url = "{base_url}"
max_in_flight = 2

[providers.smollm2.models."smollm2-135m-instruct"]
price = {{ input_usd_per_mtok = "0.10", output_usd_per_mtok = "0.20" }}

[models.demo]
targets = ["smollm2/smollm2-135m-instruct"]

[teams.{team}]
"""


class Failed(Exception):
    """The demo did not hold, and why."""


def step(text):
    print("\n==> " + text, flush=True)


def usd(nano):
    """Nano-dollars as dollars, exactly."""
    return "{}${}.{:09d}".format("-" if nano < 0 else "", abs(nano) // 10**9, abs(nano) % 10**9)


def shorten(text, width):
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def tail(path, lines=30):
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def read_jsonl(path):
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []


class Child:
    """A process of ours that says on its first line of output when it is ready, and that is stopped by its own id."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.log = DEMO / (name + ".log")
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


def build():
    """Builds the release binary, showing cargo's progress; its path."""
    if shutil.which("cargo") is None:
        raise Failed("cargo is not on the PATH; install Rust first")
    step("building tollgate (the first time takes some minutes)")
    if subprocess.call(["cargo", "build", "--release", "--bin", "tollgate"], cwd=str(ROOT)) != 0:
        raise Failed("the build failed")
    metadata = subprocess.check_output(
        ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"], cwd=str(ROOT)
    )
    return Path(json.loads(metadata)["target_directory"]) / "release" / "tollgate"


def model_python():
    """The Python of an environment that has the model and its server, made on first use and whole or not at all."""
    if sys.version_info < (3, 10):
        raise Failed("MODEL=smollm2 needs Python 3.10 or newer, this is {}".format(sys.version.split()[0]))
    requirements = SCRIPTS / "smollm2.requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    home = ROOT / ".tools" / "smollm2"
    python = home / "bin" / "python"
    stamp = home / "complete"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    step("fetching a small model and its server (about 130 MB, once)")
    shutil.rmtree(str(home), ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", str(home)]) != 0:
        shutil.rmtree(str(home), ignore_errors=True)
        raise Failed("python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps"]
    install += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)]
    if subprocess.call(install) != 0:
        shutil.rmtree(str(home), ignore_errors=True)
        raise Failed("pip could not install the model; see above")
    stamp.write_text(digest)
    return python


def real_sample():
    """A copy of the sample with short answers, for a model that takes its time."""
    lines = read_jsonl(SAMPLE)
    for line in lines:
        line["body"]["max_tokens"] = min(line["body"]["max_tokens"], REAL_TOKENS_MAX)
    path = DEMO / "sample.jsonl"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def submit(tollgate, server, sample):
    """Runs `tollgate submit` on this terminal."""
    command = [str(tollgate), "submit", str(sample), "--server", server, "--team", TEAM]
    command += ["--out", str(ANSWERS), "--errors", str(ERRORS)]
    started = time.monotonic()
    try:
        code = subprocess.call(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, timeout=SUBMIT_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Failed("submit did not finish within {} s".format(SUBMIT_SECONDS_MAX))
    if code != 0:
        first = read_jsonl(ERRORS)[:3]
        shown = "".join("\n" + shorten(json.dumps(line, ensure_ascii=False), 400) for line in first)
        raise Failed("submit ended with exit code {}{}".format(code, shown))
    return time.monotonic() - started


def check_answers(sample):
    """Every request has exactly one answer, a good one; the answers by custom_id."""
    wanted = [line["custom_id"] for line in read_jsonl(sample)]
    answers = read_jsonl(ANSWERS)
    errors = read_jsonl(ERRORS)
    errors += [line for line in answers if line.get("error") or line["response"]["status_code"] != 200]
    if errors:
        raise Failed("{} requests failed, the first: {}".format(len(errors), shorten(json.dumps(errors[0]), 400)))
    found = sorted(line["custom_id"] for line in answers)
    if found != sorted(wanted):
        missing = sorted(set(wanted) - set(found))
        raise Failed(
            "{} requests, {} answers; without one: {}".format(len(wanted), len(found), ", ".join(missing[:5]) or "none")
        )
    return {line["custom_id"]: line for line in answers}


def show_some(sample, answers):
    lines = read_jsonl(sample)
    for line in (lines[0], lines[len(lines) // 2], lines[-1]):
        answer = answers[line["custom_id"]]
        facts = answer["tollgate"]
        text = answer["response"]["body"]["choices"][0]["message"].get("content") or ""
        print("\n  {}".format(line["custom_id"]))
        print("    asked     {}".format(shorten(line["body"]["messages"][-1]["content"], 90)))
        print("    answered  {}".format(shorten(text, 90)))
        print("    by        {}/{} for {}".format(facts["provider"], facts["model"], usd(facts["cost_nano_usd"])))


def usage(tollgate, server, extra):
    command = [str(tollgate), "usage", "--by", "team,model", "--server", server] + extra
    try:
        return subprocess.run(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=30)
    except subprocess.TimeoutExpired:
        raise Failed("tollgate usage did not answer within 30 s")


def await_ledger(tollgate, server, wanted):
    """The ledger's total, once it equals `wanted`; the ledger runs behind the answers, so it gets some seconds."""
    end = time.monotonic() + LEDGER_SECONDS_MAX
    while True:
        done = usage(tollgate, server, ["--json"])
        if done.returncode != 0:
            raise Failed("tollgate usage ended with exit code {}".format(done.returncode))
        total = json.loads(done.stdout)["total"]
        found = {name: total.get(name) for name in wanted}
        if found == wanted:
            return total
        if time.monotonic() > end:
            rows = "".join("\n  {:<16} {:>16} {:>16}".format(name, str(found[name]), wanted[name]) for name in wanted)
            heading = "\n  {:<16} {:>16} {:>16}".format("", "ledger", "expected")
            raise Failed("the ledger is wrong after {} s:{}{}".format(LEDGER_SECONDS_MAX, heading, rows))
        time.sleep(0.2)


def fetch_json(url):
    # Never through a proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return json.load(answer)


def start_model(children):
    model = Child("model", [str(model_python()), str(SCRIPTS / "smollm2_server.py"), "--with-parent"])
    children.append(model)
    return model.ready(MODEL_READY_SECONDS_MAX)


def run(model_name, children):
    environment = dict(os.environ, TOLLGATE_NATS_SERVER=nats_server.ensure())
    tollgate = build()
    if DEMO.exists():
        shutil.rmtree(str(DEMO))
    DEMO.mkdir()
    up = [str(tollgate), "up", "--json", "--data", str(DEMO / "data"), "--nats-port", "0", "--listen", "127.0.0.1:0"]
    sample, model = SAMPLE, None

    if model_name == "smollm2":
        model = start_model(children)
        step("the model answers on {}".format(model["base_url"]))
        config = DEMO / "tollgate.toml"
        config.write_text(REAL_CONFIG.format(base_url=model["base_url"], team=TEAM), encoding="utf-8")
        up += ["--config", str(config)]
        sample = real_sample()

    step("starting tollgate, with a nats-server of its own")
    broker = Child("tollgate", up, environment)
    children.append(broker)
    ready = broker.ready(READY_SECONDS_MAX)
    server = ready["nats"]
    print("ready: {}, {}".format(server, ready.get("http")), flush=True)

    step("submitting {}".format(sample.relative_to(ROOT)))
    seconds = submit(tollgate, server, sample)

    step("three of the answers")
    answers = check_answers(sample)
    show_some(sample, answers)

    cost = sum(line["tollgate"]["cost_nano_usd"] for line in answers.values())
    wanted = {"requests": len(answers), "cost_nano_usd": cost}
    if model is not None:
        counted = fetch_json(model["usage"])
        wanted["input_tokens"] = counted["prompt_tokens"]
        wanted["output_tokens"] = counted["completion_tokens"]
        priced = counted["prompt_tokens"] * REAL_INPUT_NANO_USD + counted["completion_tokens"] * REAL_OUTPUT_NANO_USD
        if priced != cost:
            raise Failed("the model's own token counts cost {}, the answers say {}".format(usd(priced), usd(cost)))

    step("the ledger")
    await_ledger(tollgate, server, wanted)
    table = usage(tollgate, server, [])
    sys.stdout.flush()
    sys.stdout.buffer.write(table.stdout)
    sys.stdout.flush()
    if table.returncode != 0:
        raise Failed("tollgate usage ended with exit code {}".format(table.returncode))

    step("stopping")
    if broker.process.poll() is not None:
        raise Failed("tollgate ended by itself, exit code {}\n{}".format(broker.process.returncode, tail(broker.log)))
    if not broker.stop():
        raise Failed("tollgate did not stop within {} s of SIGTERM\n{}".format(STOP_SECONDS_MAX, tail(broker.log)))
    if broker.process.returncode not in STOPPED_BY_REQUEST:
        raise Failed("tollgate stopped with exit code {}\n{}".format(broker.process.returncode, tail(broker.log)))

    print("\n{} requests, {} answers, each once, in {:.1f} s.".format(len(answers), len(answers), seconds))
    print("The answers cost {} together, and so says the ledger, to the nano-dollar.".format(usd(cost)))
    if model is not None:
        print(
            "The model counted {} tokens in and {} out itself, and so says the ledger.".format(
                wanted["input_tokens"], wanted["output_tokens"]
            )
        )
    print("\nDEMO PASSED   (answers: {})".format(ANSWERS.relative_to(ROOT)))


def main():
    model_name = os.environ.get("MODEL", "") or "simulator"
    if model_name not in ("simulator", "smollm2"):
        print("MODEL has to be simulator or smollm2, not {!r}".format(model_name), file=sys.stderr)
        return 2
    # As an exception, so that the children are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    children = []
    try:
        run(model_name, children)
        return 0
    except (Failed, nats_server.Unavailable) as error:
        sys.stdout.flush()
        print("\nDEMO FAILED: {}".format(error), file=sys.stderr)
        return 1
    except (KeyError, IndexError, TypeError, ValueError):
        # Something that tollgate wrote is not as documented: the traceback says what was being read.
        sys.stdout.flush()
        traceback.print_exc()
        print("\nDEMO FAILED: the output is not of the documented form", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nDEMO INTERRUPTED", file=sys.stderr)
        return 130
    finally:
        for child in reversed(children):
            child.stop()


if __name__ == "__main__":
    sys.exit(main())
