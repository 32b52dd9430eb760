"""Clients that stop waiting: timeouts, closed streams, and the ones that have all they want."""

import threading
import time

import openai
import pytest

from sdk import VERSION, chat, steered, text_of
from world import until

# Seconds in which a request has reached the backend, and in which it is answered, also on a busy machine.
REACHED, ANSWERED = 0.5, 1.5
# A stream that nobody could read to its end within a test.
ENDLESS = steered(tps=20, tokens=5000)


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeout_frees_the_backend(world, client, stream):
    impatient = client.with_options(timeout=REACHED)
    with world.leaving():
        with pytest.raises(openai.APITimeoutError):
            chat(impatient, stream=stream, extra_headers=steered(fault="stall-before-head"))()


def test_a_try_that_times_out_is_a_client_that_left(world, client):
    request = world.fresh_id()
    headers = steered(fault="stall-before-head", fault_times=1) | {"x-request-id": request}
    impatient = client.with_options(timeout=ANSWERED, max_retries=2)
    left, served = world.left(), world.served()
    assert chat(impatient, max_tokens=2, extra_headers=headers)().choices[0].message.content == "Hello from"
    assert world.backend.attempts(request) == 2
    until(lambda: world.left() == left + 1)
    assert world.served() == served + 1


def test_a_timeout_between_two_events_frees_the_backend(world, client):
    impatient = client.with_options(timeout=REACHED)
    chunks = []
    with world.leaving():
        with pytest.raises(Exception) as raised:
            for chunk in chat(impatient, stream=True, extra_headers=steered(fault="stall-after-tokens"))():
                chunks.append(chunk)
        # Versions 1 and 2 let their HTTP library's error through; version 3 has it in its own class.
        assert type(raised.value).__name__ == ("APITimeoutError" if VERSION >= 3 else "ReadTimeout")
    assert text_of(chunks) == "Hello from the simulated backend behind the gateway."


def test_a_total_longer_than_the_timeout_is_none_while_events_come(client):
    paced = steered(tps=12, tokens=25)
    chunks = list(chat(client.with_options(timeout=ANSWERED), stream=True, extra_headers=paced)())
    assert len(text_of(chunks).split()) == 25


@pytest.mark.parametrize("how", ["block", "close", "client", "thread"])
def test_a_stream_that_is_closed_frees_the_backend(world, client, how):
    with world.leaving():
        stream = chat(client, stream=True, extra_headers=ENDLESS)()
        next(iter(stream))
        assert world.gateway.metric("obleth_in_flight") == 1
        if how == "block":
            with stream:
                next(iter(stream))
        elif how == "close":
            stream.close()
        elif how == "client":
            client.close()
        else:
            closer = threading.Thread(target=stream.close)
            closer.start()
            closer.join()


def test_a_streaming_response_that_is_left_frees_the_backend(world, client):
    asked = client.chat.completions.with_streaming_response.create
    with world.leaving():
        with asked(model="tiny", messages=[], stream=True, extra_headers=ENDLESS) as response:
            assert next(response.iter_lines()).startswith("data: ")


def test_a_thousand_streams_read_to_their_end_are_served(world, client):
    # Versions 2 and 3 close the connection right behind `[DONE]`, without the end of the body: that is no abort.
    left, served = world.left(), world.served()
    for _ in range(1000):
        assert text_of(chat(client, stream=True, max_tokens=3)()) == "Hello from the"
    until(lambda: world.served() == served + 1000)
    assert world.left() == left
    assert world.gateway.metric("obleth_in_flight") == 0


@pytest.mark.long
def test_a_silent_stream_is_kept_alive_by_comments(world, client):
    # Nothing comes from the backend for longer than this client waits; the gateway sends the head after ten
    # seconds and a comment after fifteen more.
    waiting = client.with_options(timeout=17)
    begun = time.monotonic()
    chunks = list(chat(waiting, stream=True, max_tokens=2, extra_headers=steered(latency_ms=27_000))())
    assert time.monotonic() - begun >= 27
    assert text_of(chunks) == "Hello from"
