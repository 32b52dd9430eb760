"""What the tests of the OpenAI SDK for Python share. They are the same for every version of it."""

import openai
import pytest

HELLO = [{"role": "user", "content": "say three words"}]
VERSION = int(openai.__version__.split(".")[0])

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


def chat(client, model="tiny", **more):
    """One chat completion, asked when called."""
    return lambda: client.chat.completions.create(model=model, messages=HELLO, **more)


def steered(**headers):
    """Headers that tell the backend what to do: `steered(fault="status-503", fault_times=1)`."""
    return {f"x-sim-{name.replace('_', '-')}": str(value) for name, value in headers.items()}


def text_of(chunks):
    """The text of a stream's chunks."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices)


def refused(kind, call, code):
    """Checks that `call` raises exactly the SDK's `kind` with our code and all that belongs to it."""
    with pytest.raises(openai.APIStatusError) as raised:
        call()
    return checked(raised.value, kind, code)


def checked(error, kind, code):
    """The same for an error that was raised already."""
    assert type(error) is kind
    assert error.code == code
    assert error.type == error.body["type"]
    assert error.param == error.body["param"]
    assert error.body["message"] in error.message
    assert error.request_id == error.body["request_id"]
    return error
