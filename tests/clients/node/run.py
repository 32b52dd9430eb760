"""Runs the tests of one version of the OpenAI SDK for Node against a gateway of their own.

usage: run.py FOLDER VERSION, where FOLDER holds the `node_modules` of this folder's package.json.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from world import running_world  # noqa: E402 (its folder is known only now)


def main(folder, version):
    with running_world() as world:
        disabled, disabled_secret = world.key()
        world.gateway.api("PUT", f"/keys/{disabled}/disabled", {"disabled": True})
        _, narrow_secret = world.key(allowed_models=["org/model"])
        rated, rated_secret = world.key()
        world.gateway.api("PUT", f"/keys/{rated}/quota", {"requests_per_minute": 1})
        spent, spent_secret = world.key()
        world.gateway.api("PUT", f"/keys/{spent}/budget", {"period": "monthly", "limit_tokens": 0})
        environment = os.environ | {
            "PACKAGES": folder,
            "VERSION": version,
            "GATEWAY": world.gateway.data,
            "METRICS": world.gateway.metrics,
            "BACKEND": world.backend.base,
            "KEY": world.secret,
            "KEY_DISABLED": disabled_secret,
            "KEY_NARROW": narrow_secret,
            "KEY_RATED": rated_secret,
            "KEY_SPENT": spent_secret,
            "CLOCK": world.gateway.clock.path,
        }
        # One file after the other: they compare the gateway's counts before and after.
        args = ["node", "--test", "--test-concurrency=1", "--test-reporter=spec"]
        tests = sorted(str(path) for path in HERE.glob("*.test.mjs"))
        return subprocess.run([*args, *tests], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
