"""A real ClickHouse for the tests: the program `clickhouse local` from a published library, with its own HTTP listener.

It is the handler of the server, with users, passwords and a data folder that outlives the process; what it lacks is
HTTPS and replication. It ends when standard input does, so that none is left behind by tests that died.

    serve.py LIBRARY FOLDER PORT PASSWORD      user `obleth`, on 127.0.0.1; GET /ping says when it is there
"""

import ctypes
import os
import sys
import threading

library, folder, port, password = sys.argv[1:]
folder = os.path.realpath(folder)
os.makedirs(folder, exist_ok=True)

USERS = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users>
<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
<obleth><password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
<quota>default</quota></obleth></users></clickhouse>
"""
# The users of a file; and the tables that the server writes for itself switched off.
CONFIG = """<clickhouse><users_config>{folder}/users.xml</users_config><listen_host>127.0.0.1</listen_host>
<max_server_memory_usage>1500000000</max_server_memory_usage>
<logger><level>warning</level><log>{folder}/server.log</log><errorlog>{folder}/error.log</errorlog></logger></clickhouse>
"""
# The listener lives as long as a query does; this one sleeps for years.
QUERY = (
    "SYSTEM START LISTEN HTTP; SELECT count() FROM numbers(1000000000) WHERE sleepEachRow(1) = 0 "
    "SETTINGS max_block_size = 1, max_threads = 1, function_sleep_max_microseconds_per_block = 0"
)

for name, text in (("users.xml", USERS), ("config.xml", CONFIG)):
    with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
        file.write(text.format(folder=folder, password=password))


def end_with_the_tests() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_the_tests, daemon=True).start()
arguments = [
    "clickhouse",
    f"--config-file={folder}/config.xml",
    f"--path={folder}/data",
    f"--http_port={port}",
    "--listen_host=127.0.0.1",
    "--multiquery",
    f"--query={QUERY}",
]
clickhouse = ctypes.CDLL(library)
clickhouse.query_stable_v2.restype = ctypes.c_void_p
clickhouse.query_stable_v2(len(arguments), (ctypes.c_char_p * len(arguments))(*[word.encode() for word in arguments]))
