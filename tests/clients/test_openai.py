"""The official OpenAI SDK for Python, as its users use it, against the gateway.

The SDK is the newest that the package index has: what it does on the wire is what most callers do.
"""

import asyncio
import time

import openai
import pytest

HELLO = [{"role": "user", "content": "say three words"}]


@pytest.fixture
def client(world):
    with openai.OpenAI(base_url=f"{world.gateway.data}/v1", api_key=world.secret, max_retries=0) as client:
        yield client


def steered(fault):
    """Tells the backend what to do wrong."""
    return {"x-sim-fault": fault}


def test_chat(client):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == "Hello from the simulated backend"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)
    assert answer.model == "tiny"


def test_stream(client):
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello from the simulated backend"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage(client):
    options = {"include_usage": True}
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True, stream_options=options)
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 16)


def test_stream_helper(client):
    with client.chat.completions.stream(model="tiny", messages=HELLO, extra_body={"sim_tokens": 4}) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello from the simulated"


def test_completions(client):
    answer = client.completions.create(model="tiny", prompt="one two", max_tokens=2)
    assert (answer.choices[0].text, answer.usage.prompt_tokens) == ("Hello from", 2)
    stream = client.completions.create(model="tiny", prompt="one two", max_tokens=2, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello from"


def test_raw_response(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == "mine-1"
    assert int(raw.headers["x-obleth-overhead-us"]) >= 0
    assert raw.parse().choices[0].message.role == "assistant"
    assert raw.parse()._request_id == "mine-1"


def test_embeddings(client):
    for form in (openai.NOT_GIVEN, "float", "base64"):
        answer = client.embeddings.create(model="tiny", input=["one two", "three"], encoding_format=form)
        assert len(answer.data) == 2
        assert answer.usage.prompt_tokens == 3
    assert client.embeddings.create(model="tiny", input="one two").data[0].embedding == [0.5, 2.0, 0.0, -1.0]


def test_models(client):
    assert sorted(model.id for model in client.models.list()) == ["org/model", "tiny"]
    for name in ("tiny", "org/model"):
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")


def refused(kind, call, code):
    """Checks that `call` raises the SDK's `kind` with our code."""
    with pytest.raises(kind) as raised:
        call()
    error = raised.value
    assert type(error) is kind
    assert error.code == code
    assert error.body["message"]
    assert error.request_id == error.body["request_id"]
    return error


def chat(client, model="tiny", **more):
    return lambda: client.chat.completions.create(model=model, messages=HELLO, **more)


def test_refusals_of_the_key(world, client):
    stranger = client.with_options(api_key="sk_unknown")
    error = refused(openai.AuthenticationError, chat(stranger), "invalid_api_key")
    assert error.response.headers["x-should-retry"] == "false"
    key, secret = world.key()
    world.gateway.api("PUT", f"/keys/{key}/disabled", {"disabled": True})
    refused(openai.PermissionDeniedError, chat(client.with_options(api_key=secret)), "key_disabled")
    _, secret = world.key(allowed_models=["org/model"])
    refused(openai.PermissionDeniedError, chat(client.with_options(api_key=secret)), "model_not_allowed")


def test_refusals_of_the_request(client):
    refused(openai.NotFoundError, chat(client, model="nothing"), "model_not_found")
    refused(openai.NotFoundError, lambda: client.models.retrieve("nothing"), "model_not_found")
    refused(openai.NotFoundError, client.files.list, "unknown_endpoint")
    error = refused(openai.BadRequestError, chat(client, model=""), "missing_model")
    assert (error.type, error.param) == ("invalid_request_error", "model")
    refused(openai.BadRequestError, chat(client, extra_body={"max_tokens": -1}), "invalid_parameter")


def test_refusals_of_the_backend(client):
    def faulty(fault):
        return chat(client, extra_headers=steered(fault))

    error = refused(openai.RateLimitError, faulty("status-429"), "upstream_rejected")
    assert error.response.headers["retry-after"] == "2"
    refused(openai.BadRequestError, faulty("status-400"), "upstream_rejected")
    refused(openai.UnprocessableEntityError, faulty("status-422"), "upstream_rejected")
    for fault, code, status in (
        ("status-500", "upstream_error", 502),
        ("status-401", "upstream_auth", 502),
        ("status-404", "upstream_not_found", 502),
        ("status-503", "no_healthy_upstream", 503),
        ("die-before-head", "upstream_cut", 502),
    ):
        error = refused(openai.InternalServerError, faulty(fault), code)
        assert error.status_code == status


def test_the_sdk_retries_only_what_can_help(world, client):
    patient = client.with_options(max_retries=2)
    before = world.gateway.metric("obleth_requests_total")
    with pytest.raises(openai.BadRequestError):
        chat(patient, extra_headers=steered("status-400"))()
    with pytest.raises(openai.InternalServerError):
        chat(patient, extra_headers=steered("status-401"))()
    assert world.gateway.metric("obleth_requests_total") == before + 2


@pytest.mark.parametrize("fault", ["die-after-role", "die-after-tokens", "die-before-done"])
def test_a_broken_stream_raises_with_our_code(client, fault):
    stream = chat(client, stream=True, extra_headers=steered(fault))()
    with pytest.raises(openai.APIError) as raised:
        for _ in stream:
            pass
    assert raised.value.code == "upstream_cut"


def until(holds):
    """Waits until something is true; fails if it does not come true."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_leaving_early_frees_the_slot(world, client):
    before = world.gateway.metric("obleth_client_closed_total")
    paced = {"x-sim-tps": "20", "x-sim-tokens": "5000"}
    with chat(client, stream=True, extra_headers=paced)() as stream:
        next(iter(stream))
        assert world.gateway.metric("obleth_in_flight") == 1
    until(lambda: world.gateway.metric("obleth_client_closed_total") == before + 1)
    until(lambda: world.gateway.metric("obleth_in_flight") == 0)


def test_a_stream_read_to_its_end_counts_as_served(world, client):
    before = world.gateway.metric("obleth_client_closed_total")
    served = 'obleth_requests_total{endpoint="/v1/chat/completions",status="200",outcome="ok"}'
    had = world.gateway.metric(served)
    for _ in range(50):
        # A client of its own each time: it closes its connection right behind `[DONE]`.
        with openai.OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as one:
            for _ in chat(one, stream=True)():
                pass
    until(lambda: world.gateway.metric(served) == had + 50)
    assert world.gateway.metric("obleth_client_closed_total") == before


def test_async(world):
    async def run():
        base = f"{world.gateway.data}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=world.secret, max_retries=0) as client:

            async def one(number):
                if number % 2:
                    answer = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3)
                    return answer.choices[0].message.content
                text = ""
                options = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "stream": True}
                async for chunk in await client.chat.completions.create(**options):
                    text += chunk.choices[0].delta.content or ""
                return text

            answers = await asyncio.gather(*(one(number) for number in range(60)))
            assert answers == ["Hello from the"] * 60
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, stream=True, extra_headers={"x-sim-tps": "20", "x-sim-tokens": "5000"}
            )
            async for _ in stream:
                break
            await stream.close()

    before = world.gateway.metric("obleth_client_closed_total")
    asyncio.run(run())
    until(lambda: world.gateway.metric("obleth_client_closed_total") == before + 1)
    until(lambda: world.gateway.metric("obleth_in_flight") == 0)
