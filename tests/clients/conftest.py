"""Fixtures of the Python clients, and which tests run: the long ones only where FULL is `true`."""

import os

import pytest

from world import running_world


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with `tests/run --full`")


def pytest_collection_modifyitems(items):
    if os.environ.get("FULL") != "true":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long; tests/run --full runs it"))


@pytest.fixture(scope="session")
def world():
    with running_world() as world:
        yield world
