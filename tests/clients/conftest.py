"""What the tests of real clients share: one gateway, one backend, one tenant."""

import pytest

from gateway import running_gateway, simulated_backend


class World:
    """A gateway with a tenant and some models on a simulated backend."""

    def __init__(self, gateway, backend):
        self.gateway = gateway
        self.tenant = gateway.api("POST", "/tenants", {"name": "acme"})["id"]
        self.names = 0
        for name in ("tiny", "org/model"):
            gateway.api("POST", "/models", {"model_name": name, "api_base": backend})
        self.id, self.secret = self.key()

    def key(self, **fields):
        """A new key: its id and its secret."""
        self.names += 1
        fields = {"name": f"key {self.names}"} | fields
        key = self.gateway.api("POST", f"/tenants/{self.tenant}/keys", fields)
        return key["id"], key["secret"]


@pytest.fixture(scope="session")
def world():
    with simulated_backend() as backend, running_gateway() as gateway:
        yield World(gateway, backend)
