"""The asynchronous client: many calls at once, and tasks that are cancelled."""

import asyncio
import contextlib

import openai
import pytest

from sdk import HELLO, checked, steered, text_of
from world import until

ENDLESS = steered(tps=20, tokens=5000)


def running(world, work, **options):
    """Runs `work` with an asynchronous client."""

    async def run():
        base = f"{world.gateway.data}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=world.secret, max_retries=0, **options) as client:
            return await work(client)

    return asyncio.run(run())


async def chat(client, model="tiny", **more):
    return await client.chat.completions.create(model=model, messages=HELLO, **more)


async def streamed(client, **more):
    return text_of([chunk async for chunk in await chat(client, stream=True, **more)])


def test_sixty_at_once(world):
    async def one(client, number):
        if number % 2:
            return (await chat(client, max_tokens=3)).choices[0].message.content
        return await streamed(client, max_tokens=3)

    async def work(client):
        return await asyncio.gather(*(one(client, number) for number in range(60)))

    assert running(world, work) == ["Hello from the"] * 60


def test_a_refusal(world):
    async def work(client):
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client, model="nothing")
        checked(raised.value, openai.NotFoundError, "model_not_found")
        with pytest.raises(openai.APIError) as raised:
            await streamed(client, extra_headers=steered(fault="die-after-tokens"))
        assert raised.value.code == "upstream_cut"

    running(world, work)


def test_a_call_that_is_retried(world):
    request = world.fresh_id()
    once = steered(fault="status-503", fault_times=1) | {"x-request-id": request}

    async def work(client):
        return await streamed(client.with_options(max_retries=1), max_tokens=1, extra_headers=once)

    assert running(world, work) == "Hello"
    assert world.backend.attempts(request) == 2


def test_helpers_and_raw_responses(world):
    async def work(client):
        stream = getattr(client.chat.completions, "stream", None) or client.beta.chat.completions.stream
        async with stream(model="tiny", messages=HELLO, extra_body={"sim_tokens": 2}) as events:
            answer = await events.get_final_completion()
        assert answer.choices[0].message.content == "Hello from"
        create = client.chat.completions.with_streaming_response.create
        async with create(model="tiny", messages=HELLO, max_tokens=2, stream=True) as response:
            assert int(response.headers["x-obleth-overhead-us"]) >= 0
            lines = [line async for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("org/model")).id == "org/model"
        assert len((await client.embeddings.create(model="tiny", input="one two")).data[0].embedding) == 4

    running(world, work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_task_cancelled_before_its_answer_frees_the_backend(world, stream):
    async def work(client):
        headers = steered(fault="stall-before-head")
        task = asyncio.create_task(chat(client, stream=stream, extra_headers=headers))
        while not (await asyncio.to_thread(world.backend.stats))["active"]:
            assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.to_thread(until, lambda: world.gateway.metric("obleth_in_flight") == 0)

    with world.leaving():
        running(world, work)


def test_a_task_cancelled_in_its_stream_frees_the_backend(world):
    async def work(client):
        first = asyncio.Event()

        async def read():
            async for _ in await chat(client, stream=True, extra_headers=ENDLESS):
                first.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(first.wait(), 20)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.to_thread(until, lambda: world.gateway.metric("obleth_in_flight") == 0)

    with world.leaving():
        running(world, work)


def test_streams_left_and_timed_out_free_the_backend(world):
    async def work(client):
        stream = await chat(client, stream=True, extra_headers=ENDLESS)
        async for _ in stream:
            break
        await stream.close()
        with pytest.raises(openai.APITimeoutError):
            await chat(client.with_options(timeout=0.5), extra_headers=steered(fault="stall-before-head"))
        await asyncio.to_thread(until, lambda: world.gateway.metric("obleth_in_flight") == 0)

    with world.leaving(clients=2):
        running(world, work)


def test_a_thousand_streams_read_to_their_end_are_served(world):
    async def work(client):
        async def some():
            return [await streamed(client, max_tokens=3) for _ in range(100)]

        return sum(await asyncio.gather(*(some() for _ in range(10))), [])

    left, served = world.left(), world.served()
    assert running(world, work) == ["Hello from the"] * 1000
    until(lambda: world.served() == served + 1000)
    assert world.left() == left
