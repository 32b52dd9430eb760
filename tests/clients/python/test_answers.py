"""The official OpenAI SDK for Python, as its users use it, against the gateway: everything that is answered."""

import json

import openai
import pydantic

from sdk import HELLO, WEATHER, chat, steered, text_of


def test_chat(client):
    answer = chat(client, max_tokens=5)()
    assert answer.choices[0].message.content == "Hello from the simulated backend"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)
    assert answer.model == "tiny"


def test_stream(client):
    chunks = list(chat(client, max_tokens=5, stream=True)())
    assert text_of(chunks) == "Hello from the simulated backend"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True})())
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 16)


def test_long_stream(client):
    chunks = list(chat(client, stream=True, extra_headers=steered(tokens=5000))())
    words = text_of(chunks).split(" ")
    assert (len(chunks), len(words)) == (5002, 5000)
    assert words[:24] == words[24:48] == words[4968:4992]


def test_text_of_more_than_one_byte_a_character(client):
    said = "größer – 日本語 🚀"
    messages = [{"role": "user", "content": said}]
    echo = steered(echo=1)
    answer = client.chat.completions.create(model="tiny", messages=messages, extra_headers=echo)
    assert json.loads(answer.choices[0].message.content)["messages"] == messages
    stream = client.chat.completions.create(model="tiny", messages=messages, stream=True, extra_headers=echo)
    assert json.loads(text_of(stream))["messages"] == messages
    assert "naïvely" in text_of(chat(client, stream=True, extra_headers=steered(tokens=24))())


def test_comments_in_a_stream_are_nothing_to_the_sdk(client):
    chunks = list(chat(client, max_tokens=5, stream=True, extra_headers=steered(comments=1))())
    assert text_of(chunks) == "Hello from the simulated backend"


def test_stream_helper(client):
    completions = getattr(client.chat.completions, "stream", None) or client.beta.chat.completions.stream
    with completions(model="tiny", messages=HELLO, extra_body={"sim_tokens": 4}) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello from the simulated"
    assert [piece for piece in pieces if piece] == ["Hello", " from", " the", " simulated"]


def test_completions(client):
    answer = client.completions.create(model="tiny", prompt="one two", max_tokens=2)
    assert (answer.choices[0].text, answer.usage.prompt_tokens) == ("Hello from", 2)
    stream = client.completions.create(model="tiny", prompt="one two", max_tokens=2, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello from"


def test_tool_call_and_its_result(client):
    asked = {"model": "tiny", "tools": [WEATHER], "extra_body": {"sim_tokens": 3}}
    first = client.chat.completions.create(messages=HELLO, **asked).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    call = first.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"text": "Hello from the"})
    messages = [*HELLO, first.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert (second.finish_reason, second.message.content) == ("stop", "Hello from the")


def test_streamed_tool_call(client):
    chunks = list(chat(client, tools=[WEATHER], stream=True, extra_body={"sim_tokens": 14})())
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert (calls[0].id, calls[0].function.name) == ("chatcmpl-tool-sim", "weather")
    arguments = "".join(call.function.arguments or "" for call in calls)
    assert json.loads(arguments)["text"].endswith("one token –")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_json_mode(client):
    answer = chat(client, response_format={"type": "json_object"}, extra_body={"sim_tokens": 3})()
    assert json.loads(answer.choices[0].message.content) == {"text": "Hello from the"}
    stream = chat(client, response_format={"type": "json_object"}, stream=True, extra_body={"sim_tokens": 3})()
    assert json.loads(text_of(stream)) == {"text": "Hello from the"}


def test_json_of_a_schema(client):
    class Said(pydantic.BaseModel):
        text: str

    parse = getattr(client.chat.completions, "parse", None) or client.beta.chat.completions.parse
    answer = parse(model="tiny", messages=HELLO, response_format=Said, extra_body={"sim_tokens": 2})
    assert answer.choices[0].message.parsed == Said(text="Hello from")


def test_raw_response(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=HELLO, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == "mine-1"
    assert int(raw.headers["x-obleth-overhead-us"]) >= 0
    assert raw.parse().choices[0].message.role == "assistant"
    assert raw.parse()._request_id == "mine-1"


def test_streaming_response(client):
    asked = client.chat.completions.with_streaming_response.create
    with asked(model="tiny", messages=HELLO, max_tokens=2, stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        lines = [line for line in response.iter_lines() if line]
    assert len(lines) == 5
    assert lines[-1] == "data: [DONE]"
    with asked(model="tiny", messages=HELLO, max_tokens=2) as response:
        assert json.loads(response.read())["choices"][0]["message"]["content"] == "Hello from"


def test_embeddings(world, client):
    for form in (openai.NOT_GIVEN, "float", "base64"):
        answer = client.embeddings.create(model="tiny", input=["one two", "three"], encoding_format=form)
        assert len(answer.data) == 2
        assert answer.usage.prompt_tokens == 3
    assert client.embeddings.create(model="tiny", input="one two").data[0].embedding == [0.5, 2.0, 0.0, -1.0]
    assert json.loads(world.backend.stats()["last_request"]["body"])["encoding_format"] == "base64"


def test_models(client):
    assert sorted(model.id for model in client.models.list()) == ["org/model", "tiny"]
    for name in ("tiny", "org/model"):
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
