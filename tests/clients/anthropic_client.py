"""Anthropic's client for Python: the gateway's address and the names of checks -> each check's outcome as one line of JSON."""

import json
import sys
import time

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused")
ASKED = dict(
    model="mai",
    max_tokens=12,
    messages=[{"role": "user", "content": "Tell me about the sea."}],
    # The same tokens each time, and all of them.
    extra_body={"temperature": 0, "seed": 1, "ignore_eos": True},
)


def whole(message):
    text = "".join(part.text for part in message.content)
    return dict(text=text, finish=message.stop_reason, tokens=message.usage.output_tokens, role=message.role)


def joined(events):
    text, role, finish, tokens, count = "", None, None, None, 0
    for event in events:
        if event.type == "message_start":
            role = event.message.role
        if event.type == "content_block_delta":
            text += event.delta.text
            count += 1
        if event.type == "message_delta":
            finish, tokens = event.delta.stop_reason, event.usage.output_tokens
    return dict(text=text, finish=finish, tokens=tokens, role=role, chunks=count)


def refused(ask):
    """The error that a question ends in; whatever is not of the client's own types ends this script."""
    try:
        return dict(answered=str(ask()))
    except anthropic.APIStatusError as error:
        return dict(error=type(error).__name__, status=error.status_code, message=error.message)


def message():
    return whole(client.messages.create(**ASKED))


def message_streamed():
    return joined(client.messages.create(**ASKED, stream=True))


def count():
    return dict(tokens=client.messages.count_tokens(model="mai", messages=ASKED["messages"]).input_tokens)


def unknown_model():
    return refused(lambda: client.messages.create(**{**ASKED, "model": "nobody"}))


def held():
    """Begins when it is told to, and says how long it waited for the first event, or what it was refused with."""
    print(json.dumps(dict(check="ready")), flush=True)
    sys.stdin.readline()
    asked, first = time.monotonic(), []

    def arriving(events):
        for event in events:
            first.append(time.monotonic() - asked)
            yield event

    try:
        reply = joined(arriving(client.messages.create(**ASKED, stream=True)))
        return dict(reply, waited=first[0])
    except anthropic.APIStatusError as error:
        return dict(error=type(error).__name__, message=error.message)


for name in sys.argv[2:]:
    print(json.dumps(dict(globals()[name](), check=name)), flush=True)
