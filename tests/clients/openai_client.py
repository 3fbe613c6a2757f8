"""OpenAI's client for Python: the gateway's address and the names of checks -> each check's outcome as one line of JSON."""

import json
import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused")
CHAT = dict(model="mai", messages=[{"role": "user", "content": "Tell me about the sea."}])
TEXT = dict(model="mai", prompt="The sea")
# The same tokens each time, and all of them.
SAME = dict(max_tokens=12, temperature=0, seed=1, extra_body={"ignore_eos": True})
STREAMED = dict(stream=True, stream_options={"include_usage": True})


def whole(text, finish, usage):
    return dict(text=text, finish=finish, tokens=usage and usage.completion_tokens)


def joined(chunks, text_of):
    text, finish, usage, count = "", None, None, 0
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += text_of(choice) or ""
            finish = choice.finish_reason or finish
            count += 1
    return dict(whole(text, finish, usage), chunks=count)


def refused(ask):
    """The error that a question ends in; whatever is not of the client's own types ends this script."""
    try:
        return dict(answered=str(ask()))
    except openai.APIStatusError as error:
        return dict(error=type(error).__name__, status=error.status_code, message=error.message)


def models():
    return dict(ids=[model.id for model in client.models.list()])


def chat():
    raw = client.chat.completions.with_raw_response.create(**CHAT, **SAME)
    reply = raw.parse()
    choice = reply.choices[0]
    return dict(
        whole(choice.message.content, choice.finish_reason, reply.usage),
        role=choice.message.role,
        rung=raw.headers["x-tierkeeper-rung"],
    )


def chat_streamed():
    with client.chat.completions.create(**CHAT, **SAME, **STREAMED) as chunks:
        return joined(chunks, lambda choice: choice.delta.content)


def completion():
    reply = client.completions.create(**TEXT, **SAME)
    return whole(reply.choices[0].text, reply.choices[0].finish_reason, reply.usage)


def completion_streamed():
    with client.completions.create(**TEXT, **SAME, **STREAMED) as chunks:
        return joined(chunks, lambda choice: choice.text)


def response_wanted():
    return dict(model="mai", input="Tell me about the sea.", max_output_tokens=12, temperature=0)


def response():
    reply = client.responses.create(**response_wanted())
    return dict(text=reply.output_text, status=reply.status, tokens=reply.usage.output_tokens)


def joined_response(events):
    text, end, count = "", None, 0
    for event in events:
        if event.type == "response.output_text.delta":
            text += event.delta
            count += 1
        if event.type == "response.completed":
            end = event.response
        # This client hands it on as one event of many.
        if event.type == "error":
            return dict(error="event", message=event.message)
    return dict(text=text, status=end and end.status, tokens=end and end.usage.output_tokens, chunks=count)


def response_streamed():
    with client.responses.create(**response_wanted(), stream=True) as events:
        return joined_response(events)


def embedding():
    once = client.with_options(max_retries=0)
    return refused(lambda: once.embeddings.create(model="mai", input="The sea"))


def unknown_model():
    return refused(lambda: client.chat.completions.create(**{**CHAT, "model": "nobody"}))


def unknown_rung():
    once = client.with_options(max_retries=0)
    return refused(lambda: once.chat.completions.create(**CHAT, extra_headers={"x-tierkeeper-require": "nobody"}))


def bad_request():
    return refused(lambda: client.chat.completions.create(model="mai", messages="The sea"))


def held(ask, joined):
    """Begins when it is told to, and says how long it waited for the first event, or what it was refused with."""
    print(json.dumps(dict(check="ready")), flush=True)
    sys.stdin.readline()
    asked, first = time.monotonic(), []

    def arriving(events):
        for event in events:
            first.append(time.monotonic() - asked)
            yield event

    try:
        with ask() as events:
            return dict(joined(arriving(events)), waited=first[0])
    except openai.APIError as error:
        return dict(error=type(error).__name__, message=error.message)


def held_chat():
    ask = lambda: client.chat.completions.create(**CHAT, **SAME, **STREAMED)
    return held(ask, lambda chunks: joined(chunks, lambda choice: choice.delta.content))


def held_completion():
    ask = lambda: client.completions.create(**TEXT, **SAME, **STREAMED)
    return held(ask, lambda chunks: joined(chunks, lambda choice: choice.text))


def held_response():
    return held(lambda: client.responses.create(**response_wanted(), stream=True), joined_response)


for name in sys.argv[2:]:
    print(json.dumps(dict(globals()[name](), check=name)), flush=True)
