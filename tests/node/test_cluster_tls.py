"""The connections between a gate and a room on another machine."""

from __future__ import annotations

import secrets
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from syft.errors import BadConfig
from syft.node import cluster, cluster_tls
from syft.node.config import Ray
from syft.node.records import FromGate, SocketSource, read_record, send_record

pytestmark = pytest.mark.in_process


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def identity():
    return cluster._identity()


def greeted(listener, tls, room, count=cluster_tls.CONNECTIONS):
    """Let a room have ``count`` connections; tell which it took."""
    taken = []
    for _ in range(count):
        connection, _ = listener.accept()
        encrypted, token, number = cluster_tls.greet(connection, tls)
        taken.append(token == room.token and room.arrive(number, encrypted))
        if not taken[-1]:
            encrypted.close()
    return taken


@pytest.fixture
def pair(listener, identity):
    """A room as its gate has it, and its own two lines."""
    tls, certificate = identity
    room = cluster._Room("a room", lambda: None)
    with ThreadPoolExecutor() as pool:
        there = pool.submit(cluster_tls.connect, *listener.getsockname(), room.token, certificate)
        assert greeted(listener, tls, room) == [True] * cluster_tls.CONNECTIONS
        here = room._here.result(10)
    yield room, here, there.result()
    room.kill()
    room.close()
    for line in there.result():
        line.close()


def test_records_cross_both_ways_at_once(pair):
    _, (here, _), (there, _) = pair
    sent = [[b"head", secrets.token_bytes(3 << 20)] for _ in range(6)]

    def send(line):
        for record in sent:
            send_record(line, record)

    writers = [threading.Thread(target=send, args=(line,)) for line in (here, there)]
    for writer in writers:
        writer.start()
    for line in (here, there):
        source = SocketSource(line)
        assert [list(map(bytes, read_record(source))) for _ in sent] == sent
    for writer in writers:
        writer.join()
    send_record(here, sent[0])
    assert list(map(bytes, FromGate(there).read() or ())) == sent[0]


def test_bytes_that_are_decrypted_already_are_not_waited_for(pair):
    _, (here, _), (there, _) = pair
    send_record(here, [bytes(9000)])
    source = SocketSource(there, ahead=0)
    assert not source.is_ahead
    source.read(100)
    assert source.is_ahead and not select.select([source], [], [], 0)[0]  # both of one record of TLS
    source.read(8912)
    assert not source.is_ahead


def test_a_room_that_is_ended_lets_go_of_whoever_waits_for_it(pair):
    room, (_, calls), (there, _) = pair
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(calls.recv_into, bytearray(1))
        room.kill()
        assert reading.result(10) == 0
    assert there.recv_into(bytearray(1)) == 0


def test_a_token_is_good_once(pair, listener, identity):
    room, _, _ = pair
    tls, certificate = identity
    with ThreadPoolExecutor() as pool:
        again = pool.submit(cluster_tls.connect, *listener.getsockname(), room.token, certificate)
        assert greeted(listener, tls, room) == [False] * cluster_tls.CONNECTIONS
        for line in again.result():
            line.close()


def test_a_room_talks_to_its_own_gate_only(listener, identity):
    tls, _ = identity
    _, anothers = cluster._identity()
    with ThreadPoolExecutor() as pool:
        room = pool.submit(cluster_tls.connect, *listener.getsockname(), bytes(cluster_tls.TOKEN_BYTES), anothers)
        connection, _ = listener.accept()
        with pytest.raises(OSError, match=r"(?i)unknown.ca"):
            cluster_tls.greet(connection, tls)
        with pytest.raises(OSError, match="certificate"):
            room.result(10)


def test_who_does_not_speak_tls_is_sent_away(listener, identity):
    tls, _ = identity
    with socket.create_connection(listener.getsockname()) as stranger:
        stranger.sendall(bytes(64))
        connection, _ = listener.accept()
        with pytest.raises(OSError, match=r"(?i)ssl"):
            cluster_tls.greet(connection, tls)


def test_a_room_that_never_comes_is_lost_with_a_reason():
    room = cluster._Room("a room", lambda: None)
    assert room.lose("no place") and not room.lose("no place")
    room.begin(None)  # an order that is not given any more
    with pytest.raises(ConnectionError, match="no place"):
        _ = room.batches


def test_a_room_that_takes_too_long_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr("syft.limits.ROOM_START_SECONDS", 0.01)
    room = cluster._Room("Ray actor bob-1", lambda: None)
    with pytest.raises(TimeoutError):
        _ = room.calls
    assert "Ray actor bob-1: not there" in caplog.text


def test_without_ray_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadConfig) as error:
        cluster.Cluster("bob", Ray())
    assert "syft-pointers[ray]" in str(error.value) and "\n" not in str(error.value)
