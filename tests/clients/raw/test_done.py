"""Clients that close as soon as they have read `[DONE]`, as SDKs do: each of them was served."""

import concurrent.futures
import json
import socket
import struct
import urllib.parse

import pytest

from world import CHAT, until

# Streams of each kind: a thousand together.
EACH = 167
BODY = json.dumps({"model": "tiny", "messages": [], "stream": True, "max_tokens": 3}).encode()


def request(world):
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {world.secret}",
        "content-type: application/json",
        f"content-length: {len(BODY)}",
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + BODY


def reset(client):
    """Ends the connection with an RST instead of a FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leave(client):
    """Ends the connection as a program does that is done with it."""


def half(client):
    """Says that nothing more will be sent, before all was read."""
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("manner", [leave, reset, half])
@pytest.mark.parametrize("at_a_time", [1, 65536])
def test_who_closes_behind_done_was_served(world, manner, at_a_time):
    """`at_a_time`: with single bytes read, what ends the body still lies unread when the connection is closed."""
    address = urllib.parse.urlsplit(world.gateway.data)
    asked = request(world)

    def one(_):
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(asked)
            received = b""
            while b"data: [DONE]\n\n" not in received[-64:]:
                piece = client.recv(at_a_time)
                assert piece, received
                received += piece
            manner(client)

    left, served = world.left(), world.served()
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        list(clients.map(one, range(EACH)))
    until(lambda: world.served() == served + EACH)
    assert world.left() == left
    assert world.gateway.metric("obleth_in_flight") == 0
