"""What the tests of real clients share: a gateway, a simulated backend, a tenant and its keys."""

import contextlib
import time

from gateway import running_gateway, simulated_backend

CHAT = "/v1/chat/completions"
SERVED = f'obleth_requests_total{{endpoint="{CHAT}",status="200",outcome="ok"}}'
GONE = f'obleth_requests_total{{endpoint="{CHAT}",status="499",outcome="client_gone"}}'


class World:
    """A gateway with a tenant and some models on a simulated backend."""

    def __init__(self, gateway, backend):
        self.gateway, self.backend = gateway, backend
        self.tenant = gateway.api("POST", "/tenants", {"name": "acme"})["id"]
        self.names = 0
        for name in ("tiny", "org/model"):
            gateway.api("POST", "/models", {"model_name": name, "api_base": backend.base})
        self.id, self.secret = self.key()

    def key(self, **fields):
        """A new key: its id and its secret."""
        self.names += 1
        fields = {"name": f"key {self.names}"} | fields
        key = self.gateway.api("POST", f"/tenants/{self.tenant}/keys", fields)
        return key["id"], key["secret"]

    def fresh_id(self):
        """A request id that nobody has used; the backend counts how often it saw it."""
        self.names += 1
        return f"request-{self.names}"

    def served(self):
        """Completions that were answered to their end."""
        return self.gateway.metric(SERVED)

    def left(self):
        """Clients that left before the end of their answer."""
        return self.gateway.metric("obleth_client_closed_total")

    @contextlib.contextmanager
    def leaving(self, clients=1):
        """Checks that the block's clients are counted as gone, and that nothing of them stays: neither in flight in
        the gateway nor generated or connected at the backend."""
        left, aborted = self.left(), self.backend.stats()["aborted"]
        gone, all_of_them = self.gateway.metric(GONE), self.gateway.metric("obleth_requests_total")
        yield
        until(lambda: self.backend.stats()["active"] == 0)
        until(lambda: self.gateway.metric("obleth_in_flight") == 0)
        until(lambda: self.left() == left + clients)
        assert self.backend.stats()["aborted"] == aborted + clients
        assert self.gateway.metric(GONE) == gone + clients
        assert self.gateway.metric("obleth_requests_total") == all_of_them + clients


@contextlib.contextmanager
def running_world():
    """A world of one's own, until the block ends."""
    with simulated_backend() as backend, running_gateway() as gateway:
        yield World(gateway, backend)


def until(holds):
    """Waits until something is true; fails if it does not come true."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
