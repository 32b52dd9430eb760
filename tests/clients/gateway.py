"""A gateway in front of the simulated backend, for tests that are clients of it.

Both are processes of their own, on free ports and with a folder of their own, and end with the block that
started them. Nothing here knows more of the gateway than its operator does.
"""

import contextlib
import json
import os
import pathlib
import re
import struct
import subprocess
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "obleth_admin_0123456789abcdef0123456789abcdef"


def binary():
    """The built program: OBLETH_BIN, else what cargo's debug profile made."""
    return os.environ.get("OBLETH_BIN") or str(ROOT / "target" / "debug" / "obleth")


@contextlib.contextmanager
def process(args, says, **options):
    """Runs a program until the block ends; gives the match of `says` in its standard output."""
    child = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, **options)
    try:
        said = ""
        for line in child.stdout:
            said += line
            found = re.search(says, line)
            if found:
                yield found
                return
        raise RuntimeError(f"{args[0]} ended with {child.wait()}: {said}")
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


class Clock:
    """The clock of a gateway: minutes pass at once. See tests/gateway/clock.c, which is loaded into it."""

    # Size of the file that holds its orders, and the place of the seconds that have passed.
    SIZE, PASSED = 24, 20

    def __init__(self, folder):
        self.path, self.passed = f"{folder}/clock", 0
        library, source = f"{folder}/clock.so", ROOT / "tests" / "gateway" / "clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        pathlib.Path(self.path).write_bytes(bytes(self.SIZE))
        self.environment = {"LD_PRELOAD": library, "FAULTY_CLOCK": self.path}

    def let_pass(self, seconds):
        """For the gateway so many seconds pass, in which nobody asks it anything."""
        self.passed += seconds
        with open(self.path, "r+b") as file:
            file.seek(self.PASSED)
            file.write(struct.pack("=i", self.passed))


class Gateway:
    """Addresses of a running gateway, its admin API, and its clock."""

    def __init__(self, data, admin, metrics, clock):
        self.data, self.admin, self.metrics, self.clock = data, admin, metrics, clock

    def api(self, method, path, body=None):
        """One call of the admin API; its JSON answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.admin}/api/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def metric(self, series):
        """The sum of a metric's series; `series` is a name, or a name with labels as on the page."""
        with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=20) as answer:
            page = answer.read().decode()
        samples = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        return sum(float(value) for name, value in samples if series in (name, name.split("{")[0]))


class Backend:
    """A simulated backend: its base address, and what it counts by itself."""

    def __init__(self, base):
        self.base = base

    def stats(self):
        """Its counts; requests are completions and embeddings."""
        with urllib.request.urlopen(f"{self.base}/sim/stats", timeout=20) as answer:
            return json.load(answer)

    def attempts(self, request_id):
        """How many requests with this id it has seen."""
        return self.stats()["by_request_id"].get(request_id, 0)


@contextlib.contextmanager
def simulated_backend():
    """A simulated backend."""
    args = [binary(), "sim-upstream", "--listen", "127.0.0.1:0"]
    with process(args, r"simulated backend: (http://\S+)/v1") as found:
        yield Backend(found[1])


@contextlib.contextmanager
def running_gateway():
    """An empty gateway."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OBLETH_")}
        environment |= {f"OBLETH_{name}_LISTEN": "127.0.0.1:0" for name in ("PROXY", "ADMIN", "METRICS")}
        clock = Clock(folder)
        environment |= {"OBLETH_ADMIN_TOKEN": TOKEN, "OBLETH_CORES": "2"} | clock.environment
        args = [binary(), "serve", "--data-dir", f"{folder}/data"]
        ready = r"ready: data plane (http://\S+), admin (http://\S+), metrics (http://\S+)"
        with process(args, ready, env=environment) as found:
            yield Gateway(*found.groups(), clock)
