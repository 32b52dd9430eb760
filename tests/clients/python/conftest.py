"""Fixtures of the OpenAI SDK's tests."""

import openai
import pytest


@pytest.fixture
def client(world):
    base = f"{world.gateway.data}/v1"
    with openai.OpenAI(base_url=base, api_key=world.secret, max_retries=0, timeout=20) as client:
        yield client
