"""The gateway in front of a real inference server, llama.cpp's: chat and stream, and the same count of tokens.

Needs ENGINE, the folder that tests/engine/build made, and the modules of tests/clients on the path.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.request

import openai
import pytest

from gateway import running_gateway

HELLO = [{"role": "user", "content": "hello world of tokens"}]


def until(holds):
    """Waits until something is true; fails if it does not come true."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def engine(*options):
    """The base address of a running inference server."""
    folder = pathlib.Path(os.environ["ENGINE"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = [folder / "llama-server", "-m", folder / "tiny.gguf", "-a", "tiny", "--host", "127.0.0.1", "--port", port]
    args += ["-c", 2048, "-t", 1, "-np", 4, "--jinja", "--metrics", "--no-webui", *options]
    child = subprocess.Popen([str(arg) for arg in args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"

    def healthy():
        assert child.poll() is None
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{base}/health", timeout=5).status == 200
        return False

    try:
        until(healthy)
        yield base
    finally:
        child.terminate()
        child.wait()


class World:
    """A gateway whose model is a real one."""

    def __init__(self, gateway, base):
        self.gateway, self.base = gateway, base
        tenant = gateway.api("POST", "/tenants", {"name": "acme"})["id"]
        self.secret = gateway.api("POST", f"/tenants/{tenant}/keys", {"name": "first"})["secret"]
        gateway.api("POST", "/models", {"model_name": "public", "upstream_model": "tiny", "api_base": base})

    def client(self):
        return openai.OpenAI(base_url=f"{self.gateway.data}/v1", api_key=self.secret, max_retries=0)

    def ours(self):
        """Input and output tokens as the gateway has counted them."""
        return tuple(int(self.gateway.metric(f"obleth_{kind}_tokens_total")) for kind in ("input", "output"))

    def theirs(self):
        """Output tokens as the engine has counted them."""
        with urllib.request.urlopen(f"{self.base}/metrics", timeout=20) as answer:
            page = answer.read().decode()
        return int(float(re.search(r"^llamacpp:tokens_predicted_total (\S+)", page, re.M)[1]))


@pytest.fixture(scope="module")
def world():
    with engine() as base, running_gateway() as gateway:
        yield World(gateway, base)


def ask(client, **more):
    return client.chat.completions.create(model="public", messages=HELLO, max_tokens=24, **more)


def test_answers_and_streams_have_the_engines_token_counts(world):
    client = world.client()
    said = [0, 0]
    for seed in range(5):
        usage = ask(client, seed=seed).usage
        said[0] += usage.prompt_tokens
        said[1] += usage.completion_tokens
        stream = ask(client, seed=seed, stream=True, stream_options={"include_usage": True})
        usage = list(stream)[-1].usage
        said[0] += usage.prompt_tokens
        said[1] += usage.completion_tokens
    until(lambda: world.ours() == tuple(said))
    assert world.ours()[1] == world.theirs()
    # A client that does not ask for usage gets none, and its tokens are counted all the same.
    chunks = list(ask(client, seed=7, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    until(lambda: world.ours()[1] == world.theirs())


def test_a_stream_is_the_same_as_a_direct_one(world):
    def text(client, model):
        more = {"seed": 3, "temperature": 0, "max_tokens": 200, "stream": True}
        stream = client.chat.completions.create(model=model, messages=HELLO, **more)
        chunks = list(stream)
        return [(chunk.model, chunk.choices[0].delta.content, chunk.choices[0].finish_reason) for chunk in chunks]

    with openai.OpenAI(base_url=f"{world.base}/v1", api_key="none", max_retries=0) as direct:
        expected = text(direct, "tiny")
    assert text(world.client(), "public") == expected
    assert len(expected) > 100


def test_a_client_that_leaves_stops_the_engine(world):
    before = world.theirs()
    stream = world.client().chat.completions.create(model="public", messages=HELLO, max_tokens=1900, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: world.gateway.metric("obleth_in_flight") == 0)
    until(lambda: b'"is_processing":true' not in slots(world))
    assert world.theirs() - before < 1900


def slots(world):
    """What the engine's places are doing, without the white space."""
    with urllib.request.urlopen(f"{world.base}/slots", timeout=20) as answer:
        return answer.read().replace(b" ", b"")


def test_a_refusal_of_the_engine_keeps_its_words(world):
    with pytest.raises(openai.BadRequestError) as raised:
        world.client().chat.completions.create(model="public", messages=[{"role": "user", "content": "word " * 4000}])
    assert raised.value.code == "upstream_rejected"
    assert "context" in raised.value.body["message"]


def test_embeddings(world):
    with engine("--embedding", "--pooling", "mean") as base:
        world.gateway.api("POST", "/models", {"model_name": "vectors", "upstream_model": "tiny", "api_base": base})
        answer = world.client().embeddings.create(model="vectors", input=["hello world", "token"])
        assert [len(item.embedding) for item in answer.data] == [64, 64]
