#!/usr/bin/env python3
"""Shows Tollgate at work, and checks it: build, start, submit a sample, compare every answer's cost with the ledger.

    make demo                   with the simulator, which is part of the binary
    make demo MODEL=smollm2     with a small real model on this machine; its own token counts have to match the ledger's

Exits 0 only when everything held. Everything it writes is in .demo/ (and .tools/, for what it fetches).
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import urllib.request

import nats_server
from common import ROOT, SCRIPTS, STOP_SECONDS_MAX, Child, Failed, build, python_with, step, tail

DEMO = ROOT / ".demo"
SAMPLE = ROOT / "tests" / "fixtures" / "demo_prompts.jsonl"
ANSWERS = DEMO / "answers.jsonl"
ERRORS = DEMO / "errors.jsonl"
TEAM = "default"

READY_SECONDS_MAX = 60
MODEL_READY_SECONDS_MAX = 180
LEDGER_SECONDS_MAX = 30
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


def usd(nano):
    """Nano-dollars as dollars, exactly."""
    return "{}${}.{:09d}".format("-" if nano < 0 else "", abs(nano) // 10**9, abs(nano) % 10**9)


def shorten(text, width):
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def read_jsonl(path):
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except FileNotFoundError:
        return []


def model_python():
    if sys.version_info < (3, 10):
        raise Failed("MODEL=smollm2 needs Python 3.10 or newer, this is {}".format(sys.version.split()[0]))
    return python_with("smollm2", "a small model and its server (about 130 MB, once)")


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
    model = Child("model", [str(model_python()), str(SCRIPTS / "smollm2_server.py"), "--with-parent"], DEMO)
    children.append(model)
    return model.ready(MODEL_READY_SECONDS_MAX)


def run(model_name, children):
    environment = dict(os.environ, TOLLGATE_NATS_SERVER=nats_server.ensure())
    tollgate = build("release")
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
    broker = Child("tollgate", up, DEMO, environment)
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
    # Two of them would clear each other's folder.
    tools = ROOT / ".tools"
    tools.mkdir(exist_ok=True)
    lock = open(str(tools / "demo.lock"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("another `make demo` runs in this checkout: wait for it, or stop it first", file=sys.stderr)
        return 1
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
