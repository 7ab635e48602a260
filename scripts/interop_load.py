#!/usr/bin/env python3
"""10,000 requests through the public contract alone, and every promise about them checked from outside.

    interop_load.py nats://127.0.0.1:4222 PROVIDER_PORT [REQUESTS]

Run by scripts/interop.py against a broker whose model `echo` is served by this script's own HTTP provider and whose teams
are `red` and `blue`. Half of the requests are JSON, half MessagePack; both teams use the same ids; one in a hundred is
published twice, every third of those at another priority.
"""

import asyncio
import collections
import json
import sys
import time

import umsgpack
import nats

TEAMS = ("red", "blue")
PRIORITIES = ("normal", "low", "high")
IN_FLIGHT = 256
SECONDS_MAX = 240
# Nano-dollars per token, as scripts/interop.py configures them: 0.10 and 0.20 dollars per million.
INPUT_NANOS, OUTPUT_NANOS = 100, 200


class Provider:
    """Answers a question with itself, counts every call, and says how many tokens that was."""

    def __init__(self):
        self.calls = collections.Counter()

    async def serve(self, port):
        return await asyncio.start_server(self.connection, "127.0.0.1", port)

    async def connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                question = json.loads(await reader.readexactly(length))["messages"][0]["content"]
                self.calls[question] += 1
                body = json.dumps({
                    "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "echo-1",
                    "choices": [{"index": 0, "finish_reason": "stop",
                                 "message": {"role": "assistant", "content": "echo of " + question}}],
                    "usage": tokens(question),
                }).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


def tokens(question):
    given = len(question.split())
    return {"prompt_tokens": given, "completion_tokens": given + 2, "total_tokens": 2 * given + 2}


def cost(question):
    usage = tokens(question)
    return usage["prompt_tokens"] * INPUT_NANOS + usage["completion_tokens"] * OUTPUT_NANOS


class Request:
    def __init__(self, number, team, group):
        self.number, self.team, self.group = number, team, group
        self.id = "q{}".format(number)
        self.question = "question {} of team {} {}".format(number, team, "word " * (number % 7)).strip()
        self.msgpack = number % 2 == 1
        self.subject = "llm.res.{}.{}.{}".format(team, group, self.id)
        envelope = {"id": self.id, "group": group, "tags": {"run": "interop"},
                    "body": {"model": "echo", "messages": [{"role": "user", "content": self.question}]}}
        self.payload = umsgpack.packb(envelope) if self.msgpack else json.dumps(envelope).encode()
        self.headers = {"Content-Type": "application/msgpack"} if self.msgpack else None


def read(message_headers, data):
    packed = (message_headers or {}).get("Content-Type") == "application/msgpack"
    return umsgpack.unpackb(data) if packed else json.loads(data)


def check(ok, what):
    if not ok:
        print("FAILED: {}".format(what), file=sys.stderr)
        sys.exit(1)
    print("ok      {}".format(what))


def answers(request, response):
    return (response["status"] == "succeeded" and response["id"] == request.id and response["team"] == request.team
            and response["body"]["choices"][0]["message"]["content"] == "echo of " + request.question
            and response["cost_nano_usd"] == cost(request.question))


async def usage_total(nc, expected):
    """The ledger's total, once it has folded everything; the deadline is the caller's."""
    while True:
        reply = await nc.request("llm.ctl.usage.query", b'{"by":["team"]}', timeout=10)
        total = json.loads(reply.data)["total"]
        if total["requests"] >= expected:
            return total
        await asyncio.sleep(0.2)


async def run(server, port, count):
    provider = Provider()
    http = await provider.serve(port)
    nc = await nats.connect(server)
    js = nc.jetstream()
    group = "load-{}".format(int(time.time()))
    requests = [Request(number, team, group) for number in range(count // 2) for team in TEAMS]
    wanted = {request.subject: request for request in requests}
    live, wrong, done = collections.Counter(), [], asyncio.Event()

    async def on_answer(message):
        subject = message.subject.replace("llm.live.", "llm.", 1)
        live[subject] += 1
        request = wanted.get(subject)
        is_packed = (message.headers or {}).get("Content-Type") == "application/msgpack"
        if request is None or is_packed != request.msgpack or not answers(request, read(message.headers, message.data)):
            wrong.append(subject)
        if len(live) == len(requests):
            done.set()

    for team in TEAMS:
        await nc.subscribe("llm.live.res.{}.{}.>".format(team, group), cb=on_answer, pending_msgs_limit=0)
    await nc.flush()
    places, started = asyncio.Semaphore(IN_FLIGHT), time.monotonic()

    async def publish(request, priority):
        async with places:
            await js.publish("llm.req.{}.{}".format(request.team, priority), request.payload, headers=request.headers)

    published = [publish(request, PRIORITIES[request.number % 3]) for request in requests]
    twice = [request for index, request in enumerate(requests) if index % 100 == 0]
    for index, request in enumerate(twice):
        priority = PRIORITIES[(request.number + (1 if index % 3 == 0 else 0)) % 3]
        published.append(publish(request, priority))
    await asyncio.gather(*published)
    print("        published {} requests, {} of them twice, in {:.1f} s".format(len(requests), len(twice), time.monotonic() - started))
    await asyncio.wait_for(done.wait(), SECONDS_MAX)
    print("        all answered after {:.1f} s".format(time.monotonic() - started))

    check(not wrong, "every answer on llm.live.res belongs to its request, in its encoding {}".format(wrong[:3] or ""))
    check(all(count == 1 for count in live.values()), "every identity is answered exactly once on llm.live.res")

    async def stored(request):
        async with places:
            message = await js.get_last_msg("LLM_RECORD", request.subject, direct=True)
        return answers(request, read(message.headers, message.data))

    check(all(await asyncio.gather(*[stored(request) for request in requests])), "and has its own answer by direct get")
    check(len(provider.calls) == len(requests) and set(provider.calls.values()) == {1}, "the provider was called once for each")

    expected = sum(cost(request.question) for request in requests)
    total = await asyncio.wait_for(usage_total(nc, len(requests)), SECONDS_MAX)
    check(total["requests"] == len(requests) and total["attempts"] == len(requests), "the ledger counts {} requests".format(len(requests)))
    check(total["cost_nano_usd"] == expected, "its money is right to the nano-dollar: {}".format(expected))
    info = await js.stream_info("LLM_USAGE")
    check(info.state.messages == len(requests), "as many usage events are stored")

    body = {"model": "echo", "messages": [{"role": "user", "content": "one more"}]}
    reply = await nc.request("llm.ask.red.high", json.dumps(body).encode(), timeout=10)
    check(json.loads(reply.data)["choices"][0]["message"]["content"] == "echo of one more", "llm.ask gives a plain completion for a plain body")
    await nc.close()
    http.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000))
