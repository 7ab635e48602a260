#!/usr/bin/env python3
"""A client of Tollgate that shares no code with it: the subjects and JSON of the public contract, over nats-py.

    interop_client.py nats://127.0.0.1:4222

Run by scripts/interop.py, in an environment that has nats-py and against a broker that serves the model `demo`.
"""

import asyncio
import json
import sys
import uuid

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import NotFoundError

TEAM = "default"
ANSWER_SECONDS_MAX = 30


def question(text):
    return {"model": "demo", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}


def text_in(completion):
    return completion["choices"][0]["message"]["content"]


class Client:
    """A connection, with the answers of one group coming in."""

    def __init__(self, connection):
        self.nc = connection
        self.js = connection.jetstream()
        self.group = "interop-" + uuid.uuid4().hex[:12]

    async def listen(self):
        self.live = await self.nc.subscribe("llm.live.res.{}.{}.>".format(TEAM, self.group))
        await self.nc.flush()

    async def publish(self, envelope, priority="normal", headers=None):
        body = json.dumps(envelope).encode()
        return await self.js.publish("llm.req.{}.{}".format(TEAM, priority), body, headers=headers)

    async def reply_to(self, envelope):
        """Publishes with an inbox, in a header so that the bytes stay the same, and waits for the reply."""
        inbox = self.nc.new_inbox()
        replies = await self.nc.subscribe(inbox)
        await self.publish(envelope, headers={"Tollgate-Reply-To": inbox})
        reply = await replies.next_msg(timeout=ANSWER_SECONDS_MAX)
        await replies.unsubscribe()
        return json.loads(reply.data)

    async def next_answer(self):
        message = await self.live.next_msg(timeout=ANSWER_SECONDS_MAX)
        return json.loads(message.data)

    async def stored(self, group, identity):
        """The stored response as (sequence, response), read by direct get."""
        subject = "llm.res.{}.{}.{}".format(TEAM, group, identity)
        for _ in range(ANSWER_SECONDS_MAX * 10):
            try:
                message = await self.js.get_last_msg("LLM_RECORD", subject, direct=True)
                return message.seq, json.loads(message.data)
            except NotFoundError:
                await asyncio.sleep(0.1)
        raise AssertionError("no response stored on {}".format(subject))

    def envelope(self, identity, text):
        return {"id": identity, "group": self.group, "body": question(text)}


async def a_published_request_is_answered_on_the_live_subject(client):
    identity = str(uuid.uuid4())
    await client.publish(client.envelope(identity, "Say hello."))
    answer = await client.next_answer()
    assert answer["id"] == identity and answer["team"] == TEAM and answer["group"] == client.group, answer
    assert answer["status"] == "succeeded", answer
    assert text_in(answer["body"]), answer
    assert isinstance(answer["cost_nano_usd"], int), answer


async def the_answer_can_be_read_later(client):
    identity = str(uuid.uuid4())
    await client.publish(client.envelope(identity, "Say hello again."))
    live = await client.next_answer()
    _, stored = await client.stored(client.group, identity)
    assert stored == live, (stored, live)


async def the_same_request_again_is_not_run_again(client):
    identity = str(uuid.uuid4())
    envelope = client.envelope(identity, "Only once, please.")
    await client.publish(envelope)
    first = await client.next_answer()
    sequence, _ = await client.stored(client.group, identity)
    assert await client.reply_to(envelope) == first, "the repeat is replied to with the stored answer"
    again, stored = await client.stored(client.group, identity)
    assert (again, stored) == (sequence, first), (sequence, again, first, stored)


async def another_body_under_the_same_id_is_refused(client):
    identity = str(uuid.uuid4())
    await client.publish(client.envelope(identity, "The first body."))
    first = await client.next_answer()
    refused = await client.reply_to(client.envelope(identity, "Another body."))
    assert refused["error"]["code"] == "duplicate_id", refused
    _, stored = await client.stored(client.group, identity)
    assert stored == first, (stored, first)


async def usage_events_say_what_an_answer_cost(client):
    usage = await client.nc.subscribe("llm.live.usage.{}.>".format(TEAM))
    await client.nc.flush()
    identity = str(uuid.uuid4())
    await client.publish(client.envelope(identity, "What does this cost?"))
    answer = await client.next_answer()
    wanted = "{}.{}.{}.1".format(TEAM, client.group, identity)
    while True:
        event = await usage.next_msg(timeout=ANSWER_SECONDS_MAX)
        if event.headers["ce-id"] == wanted:
            break
    await usage.unsubscribe()
    event = json.loads(event.data)
    assert event["final"] and event["cost_nano_usd"] == answer["cost_nano_usd"], (event, answer)
    assert event["usage"] == answer["usage"], (event, answer)


async def every_priority_is_served(client):
    wanted = set()
    for priority in ("low", "normal", "high"):
        identity = "interop-" + priority
        wanted.add(identity)
        await client.publish(client.envelope(identity, "How urgent is this?"), priority)
    found = {(await client.next_answer())["id"] for _ in wanted}
    assert found == wanted, found


async def a_bare_ask_gets_a_bare_completion(client):
    body = json.dumps(question("What is a tollgate?")).encode()
    reply = await client.nc.request("llm.ask.{}.high".format(TEAM), body, timeout=ANSWER_SECONDS_MAX)
    completion = json.loads(reply.data)
    assert text_in(completion) and "status" not in completion, completion
    assert any(name.lower().startswith("tollgate-") for name in (reply.headers or {})), reply.headers


async def an_asked_envelope_gets_an_envelope(client):
    body = json.dumps(client.envelope("asked", "What is an envelope?")).encode()
    reply = await client.nc.request("llm.ask.{}.high".format(TEAM), body, timeout=ANSWER_SECONDS_MAX)
    response = json.loads(reply.data)
    assert response["status"] == "succeeded" and text_in(response["body"]), response
    assert response == await client.next_answer(), "the reply is the stored response"


async def a_wrong_ask_gets_an_error_object(client):
    body = json.dumps({"model": "no-such-model", "messages": [{"role": "user", "content": "hello"}]}).encode()
    reply = await client.nc.request("llm.ask.{}.high".format(TEAM), body, timeout=ANSWER_SECONDS_MAX)
    error = json.loads(reply.data)["error"]
    assert error["message"], error
    assert (reply.headers or {}).get("Nats-Service-Error-Code"), reply.headers


async def what_cannot_be_read_is_rejected_by_its_sequence(client):
    accepted = await client.js.publish("llm.req.{}.normal".format(TEAM), b"{ this is not JSON")
    _, response = await client.stored("_", "seq-{}".format(accepted.seq))
    assert response["status"] == "rejected", response
    assert response["error"]["code"] and response["error"]["message"], response


async def an_unknown_priority_is_refused_at_publish(client):
    try:
        await client.js.publish("llm.req.{}.urgent".format(TEAM), b"{}", timeout=5)
    except (NatsTimeout, nats.errors.NoRespondersError, nats.js.errors.NoStreamResponseError):
        return
    raise AssertionError("the publish was acknowledged")


CHECKS = (
    a_published_request_is_answered_on_the_live_subject,
    the_answer_can_be_read_later,
    the_same_request_again_is_not_run_again,
    another_body_under_the_same_id_is_refused,
    usage_events_say_what_an_answer_cost,
    every_priority_is_served,
    a_bare_ask_gets_a_bare_completion,
    an_asked_envelope_gets_an_envelope,
    a_wrong_ask_gets_an_error_object,
    what_cannot_be_read_is_rejected_by_its_sequence,
    an_unknown_priority_is_refused_at_publish,
)


async def main(server):
    connection = await nats.connect(server, connect_timeout=5, max_reconnect_attempts=3)
    failed = 0
    try:
        for check in CHECKS:
            client = Client(connection)
            await client.listen()
            name = check.__name__.replace("_", " ")
            try:
                await check(client)
                print("  ok      {}".format(name), flush=True)
            except Exception as error:  # Each check stands for itself; what went wrong is shown, and counted.
                failed += 1
                print("  FAILED  {}\n          {}: {}".format(name, type(error).__name__, error), flush=True)
            await client.live.unsubscribe()
    finally:
        await connection.close()
    print("{} passed, {} failed".format(len(CHECKS) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
