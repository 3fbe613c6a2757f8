"""Ollama's client for Python: the gateway's address and the names of checks -> each check's outcome as one line of JSON."""

import json
import sys
import time

import ollama

client = ollama.Client(host=sys.argv[1])
# What clients set and the gateway owns: a context of their own, and a model that stays for ever.
SAME = dict(model="mai", keep_alive=-1, options={"num_predict": 12, "num_ctx": 512})
CHAT = dict(SAME, messages=[{"role": "user", "content": "Tell me about the sea."}])
TEXT = dict(SAME, prompt="Tell me about the sea.")


def whole(text, end):
    return dict(text=text, finish=end.done_reason, tokens=end.eval_count)


def joined(parts, text_of):
    parts = list(parts)
    return dict(whole("".join(text_of(part) for part in parts), parts[-1]), chunks=len(parts))


def refused(ask):
    """The error that a question ends in; whatever is not of the client's own types ends this script."""
    try:
        return dict(answered=str(ask()))
    except ollama.ResponseError as error:
        return dict(error=type(error).__name__, status=error.status_code, message=error.error)


def models():
    return dict(ids=[model.model for model in client.list().models])


def show():
    shown = client.show("mai")
    return dict(capabilities=shown.capabilities, context=shown.modelinfo["llama.context_length"])


def ps():
    return dict(ids=[model.model for model in client.ps().models])


def chat():
    reply = client.chat(**CHAT)
    return dict(whole(reply.message.content, reply), role=reply.message.role)


def chat_streamed():
    return joined(client.chat(**CHAT, stream=True), lambda part: part.message.content)


def generate():
    reply = client.generate(**TEXT)
    return whole(reply.response, reply)


def generate_streamed():
    return joined(client.generate(**TEXT, stream=True), lambda part: part.response)


def embedding():
    return refused(lambda: client.embed(model="mai", input="The sea"))


def unknown_model():
    return refused(lambda: client.chat(**{**CHAT, "model": "nobody"}))


def unknown_model_streamed():
    return refused(lambda: list(client.chat(**{**CHAT, "model": "nobody"}, stream=True)))


def closed_route():
    return refused(lambda: client.pull("mai"))


def held():
    """Begins when it is told to, and says how long it waited for the first part, or what it was refused with."""
    print(json.dumps(dict(check="ready")), flush=True)
    sys.stdin.readline()
    asked, first = time.monotonic(), []

    def arriving(parts):
        for part in parts:
            first.append(time.monotonic() - asked)
            yield part

    try:
        reply = joined(arriving(client.chat(**CHAT, stream=True)), lambda part: part.message.content)
        return dict(reply, waited=first[0])
    except ollama.ResponseError as error:
        return dict(error=type(error).__name__, message=error.error)


for name in sys.argv[2:]:
    print(json.dumps(dict(globals()[name](), check=name)), flush=True)
