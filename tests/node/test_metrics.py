"""Prometheus metrics and gRPC health of a node, read by their own clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

import syft as sy
from bench.processes import children
from syft import limits
from syft.errors import BadConfig, GetNotPermitted, NodeError, WorkerShut
from syft.node.config import parse_address, unguarded_address
from syft.node.health import Health
from syft.node.local import LocalNode

from ..helpers import config_with_data, data_set, until

pytestmark = pytest.mark.in_process

CONFIG = data_set("heart", use=["me"]) + data_set("free", use=["me"], get=["me"])
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def node(authority, tmp_path_factory):
    values = np.ones(3, dtype=np.float32)
    config = config_with_data(tmp_path_factory.mktemp("meter"), "meter", CONFIG, values)
    with LocalNode(authority, "meter", config, ["--metrics", "127.0.0.1:0"]) as node:
        yield node


@pytest.fixture
def url(node):
    """Where its metrics are, which it has said before it was ready."""
    url = re.search(r"^meter: metrics at (http://127\.0\.0\.1:\d+/metrics)$", node.said, re.MULTILINE)[1]
    until(lambda: read(url)["syft_rooms",] == 0)
    return url


def read(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_a_node_does(node, url, authority):
    before = read(url)
    assert all(before[f"syft_{name}",] == 0 for name in ("rooms", "clients", "sessions", "requests_open"))
    bob, other = (sy.connect(node.address, certs=authority / "me") for _ in range(2))
    x = sy.send(torch.ones(1000), bob)
    for _ in range(200):
        x = x + 1
    assert x.get().sum() == 201_000
    square = sy.send(torch.ones(1), bob).expand(512, 512)
    for _ in range(20):  # its processor time is told in hundredths of a second: let it have some
        square = square @ square / 512
    assert square.sum().get() == 512 * 512
    (free,) = other.search("#free")
    assert free.sum().item() == 3
    (heart,) = bob.search("#heart")
    y = heart + 1
    for _ in range(3):
        with pytest.raises(GetNotPermitted):
            y.get()
    asked = y.request(reason="a \nmean")
    with pytest.raises(GetNotPermitted):
        y.get()
    now = read(url)
    new = {name: value - before.get(name, 0) for name, value in now.items()}
    assert (now["syft_rooms",], now["syft_clients",], now["syft_sessions",], now["syft_requests_open",]) == (2, 1, 2, 1)
    assert 200 < new["syft_messages_total",] < 600
    assert all(4000 < new[f"syft_{way}_bytes_total",] < 100_000 for way in ("received", "sent"))
    assert new["syft_releases_total", "allowed", "get"] == 1 and new["syft_releases_total", "denied", "get"] == 4
    assert new["syft_rooms_memory_bytes",] > 1e6 and new["syft_rooms_cpu_seconds_total",] > 0
    assert new["syft_rooms_died_total",] == 0 and now["process_open_fds",] > 5
    asked.withdraw()
    bob.shut()
    other.shut()
    until(lambda: read(url)["syft_rooms",] == 0)
    later = read(url)
    assert later["syft_sessions",] == later["syft_requests_open",] == 0
    assert all(later[name] >= value for name, value in now.items() if name[0].endswith("_total"))


def test_rooms_that_die_are_counted_once(node, url, authority):
    before = read(url)["syft_rooms_died_total",]
    bob = sy.connect(node.address, certs=authority / "me")
    assert sy.send(torch.ones(3), bob).sum().item() == 3
    (forkserver,) = children(node.process.pid)
    (room,) = children(forkserver)
    os.kill(room, signal.SIGKILL)
    with pytest.raises(WorkerShut):
        sy.send(torch.ones(3), bob).sum().item()
    assert read(url)["syft_rooms_died_total",] == before + 1
    bob.shut()
    until(lambda: read(url)["syft_rooms",] == 0)
    assert read(url)["syft_rooms_died_total",] == before + 1


def test_no_name_is_in_them(node, url, authority):
    bob = sy.connect(node.address, certs=authority / "me")
    (heart,) = bob.search("#heart")
    heart.sum().request(reason="curious")
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    bob.shut()
    labels = set(re.findall(r'=(".*?")', text))
    assert labels <= {'"get"', '"move"', '"shape"', '"connect"', '"call"', '"ticket"', '"allowed"', '"denied"'}
    assert not re.search(r"\b(me|heart|free|curious|meter)\b", text)


def test_a_reader_that_says_nothing_does_not_keep_the_others_out(node, url):
    host, port = re.search(r"//(.*):(\d+)/", url).groups()
    with socket.create_connection((host, int(port))):
        assert read(url)["syft_rooms",] == 0
    until(lambda: "metrics: timed out" in node.log.read_text())


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("0.0.0.0:9101", "--metrics-open"),
        ("192.0.2.1:9101", "--metrics-open"),
        ("[::]:9101", "--metrics-open"),
        ("example.org:9101", "--metrics-open"),
        ("9101", "HOST:PORT"),
        ("127.0.0.1:x", "HOST:PORT"),
        ("127.0.0.1:70000", "HOST:PORT"),
    ],
)
def test_only_this_machine_unless_said_so(address, told):
    with pytest.raises(BadConfig, match=told):
        unguarded_address("--metrics", address, open_to_others=False)


@pytest.mark.parametrize(
    ("address", "others"), [("127.0.0.1:0", False), ("[::1]:9101", False), ("localhost:1", False), ("0.0.0.0:1", True)]
)
def test_where_they_may_be(address, others):
    assert str(unguarded_address("--metrics", address, open_to_others=others)) == address


def test_a_port_that_is_taken_ends_the_start_with_a_line(authority):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NodeError, match=f"nothing can listen at {address}"):
            LocalNode(authority, "late", options=["--metrics", address])


# ---- health ------------------------------------------------------------------------------------


def check(stub, service=""):
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5, wait_for_ready=True).status


@pytest.fixture
def stub():
    """Of a health service, with which it is given."""
    service = Health(parse_address("127.0.0.1:0", lowest=0))
    with grpc.insecure_channel(str(service.address)) as channel:
        yield service, health_pb2_grpc.HealthStub(channel)
    service.close()


def test_a_node_tells_its_health_on_request(authority):
    with LocalNode(authority, "well", options=["--health", "127.0.0.1:0"]) as node:
        (address,) = re.findall(r"health at (\S+)", node.said)
        with grpc.insecure_channel(address) as channel:
            assert check(health_pb2_grpc.HealthStub(channel)) == SERVING


def test_health_of_the_node_until_its_end(stub):
    service, asked = stub
    assert check(asked) == check(asked, "syft.Node") == SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        check(asked, "other")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    service.enter_graceful_shutdown()
    assert check(asked) == check(asked, "syft.Node") == NOT_SERVING


def test_nobody_watches_and_nobody_asks_at_length(stub):
    _, asked = stub
    with pytest.raises(grpc.RpcError) as refused:
        next(asked.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=5))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as refused:
        check(asked, "x" * limits.MAX_CHECK_BYTES)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_taken_address_for_health_is_said(authority):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NodeError, match=f"--health: nothing can listen at {address}"):
            LocalNode(authority, "late", options=["--health", address])
