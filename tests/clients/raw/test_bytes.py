"""Streams byte by byte: what came through the gateway is what a direct call to the backend gets.

No SDK is in between, so that nothing is compared but bodies as they were sent.
"""

import http.client
import json
import urllib.parse

import pytest

from world import CHAT

COMPLETIONS = "/v1/completions"
WORDS = "größer – 日本語 🚀 \u2028 \\ \" \u0000"
BODIES = {
    "chat": (CHAT, {"messages": [{"role": "user", "content": WORDS}]}),
    "completion": (COMPLETIONS, {"prompt": WORDS}),
    "tool": (CHAT, {"messages": [], "tools": [{"type": "function", "function": {"name": WORDS}}]}),
    "object": (CHAT, {"messages": [], "response_format": {"type": "json_object"}}),
}
USAGE = {
    "not asked": {},
    "asked": {"stream_options": {"include_usage": True}},
    "refused": {"stream_options": {"include_usage": False}},
    "continuous": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}
SHAPES = ("final", "final-only", "last-with-choices", "every", "none")


def ask(base, key, body, steering=(), path=CHAT):
    """Posts a body: status, content type, and the body that came back, without its framing."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=20)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    headers |= {f"x-sim-{name}": str(value) for name, value in dict(steering).items()}
    connection.request("POST", path, json.dumps(body).encode(), headers)
    answer = connection.getresponse()
    read = answer.status, answer.getheader("content-type"), answer.read()
    connection.close()
    return read


def both(world, body, steering=(), path=CHAT):
    """The answers to a direct call and to one through the gateway."""
    body = {"model": "tiny", **body}
    direct = ask(world.backend.base, "none", body, steering, path)
    return direct, ask(world.gateway.data, world.secret, body, steering, path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("usage", USAGE)
@pytest.mark.parametrize("kind", BODIES)
def test_a_stream_is_the_backends_stream(world, kind, usage, shape):
    path, body = BODIES[kind]
    direct, through = both(world, {**body, **USAGE[usage], "stream": True}, {"usage": shape}, path)
    assert direct[2].endswith(b"data: [DONE]\n\n")
    assert through == direct


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_is_the_backends_answer(world, kind):
    path, body = BODIES[kind]
    direct, through = both(world, body, (), path)
    assert json.loads(direct[2])["usage"]
    assert through == direct


@pytest.mark.parametrize("usage", USAGE)
def test_what_a_client_said_comes_back_as_it_was(world, usage):
    # The body holds what a scan for usage might take for it: the words of the member, escaped and not.
    text = '"usage":null,"usage":{"prompt_tokens":1},data: [DONE]\n\n' + WORDS
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "stream": True, **USAGE[usage]}
    _, _, through = ask(world.gateway.data, world.secret, body, {"echo": 1})
    events = [json.loads(event[6:]) for event in through.decode().split("\n\n") if event.startswith("data: {")]
    said = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert json.loads(said)["messages"] == body["messages"]


@pytest.mark.parametrize("usage", USAGE)
def test_a_long_stream_and_its_comments_are_the_backends(world, usage):
    body = {"messages": [], "stream": True, **USAGE[usage]}
    direct, through = both(world, body, {"tokens": 5000, "comments": 1})
    assert direct[2].count(b": ping\n\n") == 5000
    assert through == direct


def test_an_embedding_is_the_backends(world):
    for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        direct, through = both(world, {"input": ["one two", WORDS], **form}, (), "/v1/embeddings")
        assert through == direct


@pytest.mark.parametrize("fault", ["die-after-role", "die-after-tokens", "die-before-done"])
def test_a_stream_that_breaks_off_is_the_backends_until_then(world, fault):
    body = {"model": "tiny", "messages": [], "stream": True}
    parts = []
    for base, key in ((world.backend.base, "none"), (world.gateway.data, world.secret)):
        with pytest.raises(http.client.IncompleteRead) as raised:
            ask(base, key, body, {"fault": fault})
        parts.append(raised.value.partial)
    direct, through = parts
    assert through.startswith(direct)
    frame = through.removeprefix(direct)
    assert frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.count(b"\n") == 2
    assert json.loads(frame[6:])["error"]["code"] == "upstream_cut"


def test_a_model_is_found_with_a_slash_raw_and_escaped(world):
    for name in ("org/model", "org%2Fmodel", "org%2fmodel"):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(world.gateway.data).netloc, timeout=20)
        connection.request("GET", f"/v1/models/{name}", headers={"authorization": f"Bearer {world.secret}"})
        assert json.load(connection.getresponse())["id"] == "org/model"
        connection.close()
