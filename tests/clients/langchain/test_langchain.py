"""LangChain's client of the OpenAI API, as its users point it at a server of their own."""

import asyncio
import contextlib

import openai
import pydantic
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from world import until

HELLO = "say three words"
# A stream that nobody could read to its end within a test.
ENDLESS = {"x-sim-tps": "20", "x-sim-tokens": "5000"}


@tool
def weather(text: str) -> str:
    """Says how the weather is."""
    return f"sunny, {text}"


@pytest.fixture
def model(world):
    """Makes a chat model; the arguments are ChatOpenAI's."""

    def make(headers=None, **options):
        options = {"model": "tiny", "max_retries": 0, "timeout": 20} | options
        base = f"{world.gateway.data}/v1"
        return ChatOpenAI(base_url=base, api_key=world.secret, default_headers=headers, **options)

    return make


@pytest.fixture(scope="module")
def run():
    """Runs coroutines on one loop: LangChain's models share their open connections, which end with their loop."""
    with asyncio.Runner() as runner:
        yield runner.run


def tokens(count):
    return {"x-sim-tokens": str(count)}


def test_invoke(model):
    answer = model(tokens(3)).invoke(HELLO)
    assert answer.content == "Hello from the"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (3, 3)


def test_stream_without_and_with_usage(model):
    for options, usage in (({}, None), ({"stream_usage": True}, 3)):
        pieces = list(model(tokens(3), **options).stream(HELLO))
        assert "".join(piece.content for piece in pieces) == "Hello from the"
        whole = sum(pieces[1:], pieces[0])
        assert (whole.usage_metadata and whole.usage_metadata["output_tokens"]) == usage


def test_long_stream(model):
    text = "".join(piece.content for piece in model(tokens(5000)).stream(HELLO))
    assert len(text.split(" ")) == 5000
    assert text.count("naïvely") == 208


def test_async_and_batch(model, run):
    async def work():
        chat = model(tokens(3))
        pieces = [piece.content async for piece in chat.astream(HELLO)]
        answers = await asyncio.gather(*(chat.ainvoke(HELLO) for _ in range(30)))
        return "".join(pieces), {answer.content for answer in answers}

    assert run(work()) == ("Hello from the", {"Hello from the"})
    assert {answer.content for answer in model(tokens(2)).batch([HELLO] * 20)} == {"Hello from"}


def test_tools(model):
    chat = model(tokens(3)).bind_tools([weather])
    asked = HumanMessage(HELLO)
    answer = chat.invoke([asked])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"text": "Hello from the"})
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert result.content == "sunny, Hello from the"
    assert chat.invoke([asked, answer, result]).content == "Hello from the"


def test_streamed_tools(model):
    pieces = list(model(tokens(14)).bind_tools([weather]).stream(HELLO))
    (call,) = sum(pieces[1:], pieces[0]).tool_calls
    assert call["args"]["text"].endswith("one token –")


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output(model, method):
    class Said(pydantic.BaseModel):
        """What was said."""

        text: str

    said = model(tokens(2)).with_structured_output(Said, method=method)
    assert said.invoke(HELLO) == Said(text="Hello from")
    assert list(said.stream(HELLO))[-1] == Said(text="Hello from")


def test_completions_and_embeddings(world):
    options = {"base_url": f"{world.gateway.data}/v1", "api_key": world.secret, "model": "tiny"}
    assert OpenAI(max_tokens=2, **options).invoke(HELLO) == "Hello from"
    assert "".join(OpenAI(max_tokens=2, **options).stream(HELLO)) == "Hello from"
    # Without the check of lengths, which would download OpenAI's own tokenizer.
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **options)
    assert embeddings.embed_query("one two") == [0.5, 2.0, 0.0, -1.0]
    assert len(embeddings.embed_documents(["one", "two"])) == 2


@pytest.mark.parametrize(
    "options, kind, code",
    [
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found"),
        ({"headers": {"x-sim-fault": "status-400"}}, openai.BadRequestError, "upstream_rejected"),
        ({"headers": {"x-sim-fault": "status-429"}}, openai.RateLimitError, "upstream_rejected"),
        ({"headers": {"x-sim-fault": "status-503"}}, openai.InternalServerError, "no_healthy_upstream"),
        ({"headers": {"x-sim-fault": "die-after-head"}}, openai.InternalServerError, "upstream_cut"),
    ],
)
def test_refusals_keep_class_and_code(model, options, kind, code):
    for ask in (lambda chat: chat.invoke(HELLO), lambda chat: list(chat.stream(HELLO))):
        with pytest.raises(kind) as raised:
            ask(model(**options))
        assert raised.value.code == code


def test_a_key_that_nobody_knows(world):
    chat = ChatOpenAI(base_url=f"{world.gateway.data}/v1", api_key="sk_unknown", model="tiny")
    before = world.gateway.metric("obleth_requests_total")
    with pytest.raises(openai.AuthenticationError):
        chat.invoke(HELLO)
    assert world.gateway.metric("obleth_requests_total") == before + 1


def test_busy_once_is_retried_and_served(world, model):
    request = world.fresh_id()
    headers = {"x-sim-fault": "status-503", "x-sim-fault-times": "1", "x-request-id": request} | tokens(1)
    assert model(headers, max_retries=2).invoke(HELLO).content == "Hello"
    assert world.backend.attempts(request) == 2


def test_a_broken_stream_raises_with_our_code(model):
    pieces = []
    with pytest.raises(openai.APIError) as raised:
        for piece in model({"x-sim-fault": "die-after-tokens"}).stream(HELLO):
            pieces.append(piece.content)
    assert raised.value.code == "upstream_cut"
    assert "".join(pieces).startswith("Hello from the")


def test_a_timeout_frees_the_backend(world, model):
    with world.leaving():
        with pytest.raises(openai.APITimeoutError):
            model({"x-sim-fault": "stall-before-head"}, timeout=0.5).invoke(HELLO)


def test_a_stream_that_is_left_frees_the_backend(world, model):
    with world.leaving():
        stream = model(ENDLESS).stream(HELLO)
        next(stream)
        stream.close()


def test_a_cancelled_task_frees_the_backend(world, model, run):
    async def work():
        first = asyncio.Event()
        # The limit between two pieces is kept by `asyncio.wait_for`, which in Python 3.11 swallows a cancellation
        # that comes together with a piece.
        endless = model(ENDLESS, stream_chunk_timeout=None)

        async def read():
            async for _ in endless.astream(HELLO):
                first.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(first.wait(), 20)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.to_thread(until, lambda: world.gateway.metric("obleth_in_flight") == 0)

    with world.leaving():
        run(work())


def test_streams_read_to_their_end_are_served(world, model):
    left, served = world.left(), world.served()
    chat = model(tokens(3))
    for _ in range(200):
        assert "".join(piece.content for piece in chat.stream(HELLO)) == "Hello from the"
    until(lambda: world.served() == served + 200)
    assert world.left() == left
