"""What the OpenAI SDK for Python makes of everything that goes wrong: its classes, fields and retries."""

import time

import openai
import pytest

from sdk import HELLO, chat, refused, steered, text_of

# Long enough to tell a wait that was asked for from the SDK's own half a second.
ASKED_TO_WAIT = 0.9


def test_refusals_of_the_key(world, client):
    def with_key(secret):
        return chat(client.with_options(api_key=secret, max_retries=2))

    before = world.gateway.metric("obleth_requests_total")
    error = refused(openai.AuthenticationError, with_key("sk_unknown"), "invalid_api_key")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.type == "authentication_error"
    key, secret = world.key()
    world.gateway.api("PUT", f"/keys/{key}/disabled", {"disabled": True})
    error = refused(openai.PermissionDeniedError, with_key(secret), "key_disabled")
    assert error.type == "permission_error"
    _, secret = world.key(allowed_models=["org/model"])
    refused(openai.PermissionDeniedError, with_key(secret), "model_not_allowed")
    assert world.gateway.metric("obleth_requests_total") == before + 3


def test_refusals_of_the_request(client):
    error = refused(openai.NotFoundError, chat(client, model="nothing"), "model_not_found")
    assert error.type == "not_found_error"
    refused(openai.NotFoundError, lambda: client.models.retrieve("nothing"), "model_not_found")
    refused(openai.NotFoundError, lambda: client.models.retrieve("no/thing"), "model_not_found")
    refused(openai.NotFoundError, client.files.list, "unknown_endpoint")
    error = refused(openai.BadRequestError, chat(client, model=""), "missing_model")
    assert (error.type, error.param) == ("invalid_request_error", "model")
    error = refused(openai.BadRequestError, chat(client, extra_body={"max_tokens": -1}), "invalid_parameter")
    assert error.param == "max_tokens"


def test_a_body_over_the_limit_is_asked_once(world, client):
    before = world.gateway.metric("obleth_requests_total")
    large = [{"role": "user", "content": "x" * (11 << 20)}]
    patient = client.with_options(max_retries=2)
    error = refused(
        openai.APIStatusError,
        lambda: patient.chat.completions.create(model="tiny", messages=large),
        "request_too_large",
    )
    assert error.status_code == 413
    assert error.response.headers["x-should-retry"] == "false"
    assert world.gateway.metric("obleth_requests_total") == before + 1


BLAMED = [
    (400, openai.BadRequestError),
    (409, openai.ConflictError),
    (413, openai.APIStatusError),
    (415, openai.APIStatusError),
    (422, openai.UnprocessableEntityError),
]


@pytest.mark.parametrize("status, kind", BLAMED)
def test_a_request_that_the_backend_blames_is_asked_once(world, client, status, kind):
    request = world.fresh_id()
    headers = steered(fault=f"status-{status}") | {"x-request-id": request}
    error = refused(kind, chat(client.with_options(max_retries=2), extra_headers=headers), "upstream_rejected")
    assert (error.status_code, error.request_id) == (status, request)
    assert world.backend.attempts(request) == 1


FAILED = [
    ("status-500", 502, "upstream_error", 2),
    ("status-401", 502, "upstream_auth", 1),
    ("status-404", 502, "upstream_not_found", 1),
    ("die-after-head", 502, "upstream_cut", 2),
]


@pytest.mark.parametrize("fault, status, code, attempts", FAILED)
def test_a_backend_that_fails_is_asked_again_where_that_can_help(world, client, fault, status, code, attempts):
    request = world.fresh_id()
    headers = steered(fault=fault) | {"x-request-id": request}
    call = chat(client.with_options(max_retries=1), extra_headers=headers)
    error = refused(openai.InternalServerError, call, code)
    assert (error.status_code, error.type) == (status, "server_error")
    assert world.backend.attempts(request) == attempts


def test_a_backend_that_dies_without_a_byte(client):
    # How often it is asked depends on whether the gateway found a connection to it that was open already.
    call = chat(client, extra_headers=steered(fault="die-before-head"))
    assert refused(openai.InternalServerError, call, "upstream_cut").status_code == 502


@pytest.mark.parametrize("fault, stream", [("status-503", False), ("status-429", True)])
def test_busy_once_is_retried_after_the_wait_and_served(world, client, fault, stream):
    request = world.fresh_id()
    once = steered(fault=fault, fault_times=1, header="retry-after: 1") | {"x-request-id": request}
    begun = time.monotonic()
    answer = chat(client.with_options(max_retries=2), stream=stream, extra_headers=once, max_tokens=2)()
    assert time.monotonic() - begun >= ASKED_TO_WAIT
    assert (text_of(answer) if stream else answer.choices[0].message.content) == "Hello from"
    assert world.backend.attempts(request) == 2


@pytest.mark.parametrize(
    "fault, kind, code, type_",
    [
        ("status-429", openai.RateLimitError, "upstream_rejected", "rate_limit_error"),
        ("status-503", openai.InternalServerError, "no_healthy_upstream", "server_error"),
    ],
)
def test_the_wait_that_is_asked_for_is_one_that_every_sdk_keeps(client, fault, kind, code, type_):
    for asked, told in ((None, ("1", "2")), (7, ("7",)), (3600, ("59",))):
        headers = steered(fault=fault) | (steered(header=f"retry-after: {asked}") if asked else {})
        error = refused(kind, chat(client, extra_headers=headers), code)
        assert error.type == type_
        assert error.response.headers["retry-after"] in told
        assert error.response.headers["retry-after-ms"] == error.response.headers["retry-after"] + "000"
        assert "x-should-retry" not in error.response.headers


def test_a_rate_is_waited_for_as_told_and_then_served(world, client):
    key, secret = world.key()
    world.gateway.api("PUT", f"/keys/{key}/quota", {"requests_per_minute": 1})
    limited = client.with_options(api_key=secret, max_retries=2)
    chat(limited)()
    world.gateway.clock.let_pass(57)
    error = refused(openai.RateLimitError, chat(limited.with_options(max_retries=0)), "rate_limit_exceeded")
    assert error.type == "rate_limit_error"
    told = int(error.response.headers["retry-after-ms"]) / 1000
    assert 0 < told <= 3
    refusals = 'obleth_rejected_total{code="rate_limit_exceeded"}'
    before, begun = world.gateway.metric(refusals), time.monotonic()
    assert chat(limited)().choices[0].message.content
    waited = time.monotonic() - begun
    # It was refused a little later than the one that told, so that its own wait was shorter by as much.
    assert waited >= told - 0.5
    assert world.gateway.metric(refusals) == before + 1


def test_a_budget_that_is_used_up_is_asked_once(world, client):
    key, secret = world.key()
    world.gateway.api("PUT", f"/keys/{key}/budget", {"period": "monthly", "limit_tokens": 0})
    counts = lambda: (world.gateway.metric("obleth_requests_total"), world.backend.stats()["requests"])
    for stream in (False, True):
        requests, at_backend = counts()
        spent = client.with_options(api_key=secret, max_retries=2)
        error = refused(openai.RateLimitError, chat(spent, stream=stream), "budget_exceeded")
        assert error.type == "insufficient_quota"
        assert error.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in error.response.headers
        assert counts() == (requests + 1, at_backend)


@pytest.mark.parametrize("fault", ["die-after-role", "die-after-tokens", "die-before-done"])
def test_a_broken_stream_raises_with_our_code(world, client, fault):
    request = world.fresh_id()
    headers = steered(fault=fault) | {"x-request-id": request}
    chunks = []
    with pytest.raises(openai.APIError) as raised:
        for chunk in chat(client.with_options(max_retries=2), stream=True, extra_headers=headers)():
            chunks.append(chunk)
    assert type(raised.value) is openai.APIError
    assert (raised.value.code, raised.value.type) == ("upstream_cut", "server_error")
    assert raised.value.body["request_id"] == request
    assert "Hello from the simulated backend".startswith(text_of(chunks[:6]))
    assert world.backend.attempts(request) == 1


def test_a_stream_that_is_refused_raises_before_its_first_chunk(client):
    error = refused(openai.NotFoundError, chat(client, model="nothing", stream=True), "model_not_found")
    assert error.response.headers["content-type"] == "application/json"
    call = chat(client, stream=True, extra_headers=steered(fault="die-after-head"))
    refused(openai.InternalServerError, call, "upstream_cut")
    raw = client.chat.completions.with_raw_response.create
    refused(openai.NotFoundError, lambda: raw(model="nothing", messages=HELLO), "model_not_found")
