#!/usr/bin/env python3
"""Drives a broker with a NATS client in another language, which knows nothing but the public contract.

    make interop [REQUESTS=10000]

Fetches nats-py into .tools/. Runs scripts/interop_client.py against a broker with the simulator, then
scripts/interop_load.py, which brings a provider of its own, against a second one.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import nats_server
from common import ROOT, SCRIPTS, Child, Failed, build, python_with, step, tail

READY_SECONDS_MAX = 60
CHECKS_SECONDS_MAX = 300


def run(folder, children):
    environment = dict(os.environ, TOLLGATE_NATS_SERVER=nats_server.ensure())
    python = python_with("interop", "nats-py")
    tollgate = build("debug")
    up = [str(tollgate), "up", "--json", "--data", str(folder / "data"), "--nats-port", "0", "--listen", "127.0.0.1:0"]
    broker = Child("tollgate", up, folder, environment)
    children.append(broker)
    server = broker.ready(READY_SECONDS_MAX)["nats"]
    step("asking {} with nats-py".format(server))
    try:
        client = [str(python), str(SCRIPTS / "interop_client.py"), server]
        code = subprocess.call(client, cwd=str(ROOT), timeout=CHECKS_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Failed("the checks did not finish within {} s\n{}".format(CHECKS_SECONDS_MAX, tail(broker.log)))
    if code != 0:
        raise Failed("not all checks passed; the end of the broker's log:\n{}".format(tail(broker.log)))


CONFIGURATION = """\
[providers.echo]
kind = "compatible"
base_url = "http://127.0.0.1:{port}/v1"
max_in_flight = 64

[providers.echo.models."echo-1"]
price = {{ input_usd_per_mtok = "0.10", output_usd_per_mtok = "0.20" }}

[models.echo]
targets = ["echo/echo-1"]

[teams.red]
[teams.blue]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_load(folder, children):
    environment = dict(os.environ, TOLLGATE_NATS_SERVER=nats_server.ensure())
    python = python_with("interop", "nats-py")
    tollgate = build("debug")
    port = free_port()
    configuration = folder / "tollgate.toml"
    configuration.write_text(CONFIGURATION.format(port=port))
    up = [str(tollgate), "up", "--json", "--config", str(configuration), "--data", str(folder / "load"), "--nats-port", "0"]
    broker = Child("tollgate-load", up + ["--listen", "127.0.0.1:0"], folder, environment)
    children.append(broker)
    server = broker.ready(READY_SECONDS_MAX)["nats"]
    requests = os.environ.get("REQUESTS", "") or "10000"
    step("{} requests through {} with nats-py".format(requests, server))
    try:
        client = [str(python), str(SCRIPTS / "interop_load.py"), server, str(port), requests]
        code = subprocess.call(client, cwd=str(ROOT), timeout=2 * CHECKS_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Failed("the load did not finish in time\n{}".format(tail(broker.log)))
    if code != 0:
        raise Failed("not all checks passed; the end of the broker's log:\n{}".format(tail(broker.log)))


def main():
    # As an exception, so that the broker is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tollgate-interop-"))
    children = []
    try:
        run(folder, children)
        run_load(folder, children)
        return 0
    except (Failed, nats_server.Unavailable) as error:
        sys.stdout.flush()
        print("\nINTEROP FAILED: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for child in reversed(children):
            child.stop()
        shutil.rmtree(str(folder), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
