"""What runs in one process runs with nodes: pointers, chains, moves, training, errors."""

from __future__ import annotations

import gc
import re
import socket

import pytest
import torch
from torch import nn

import syft as sy
from syft import limits, outline
from syft.errors import (
    BadCertificate,
    LimitExceeded,
    Misuse,
    ObjectGone,
    OperatorFailed,
    OperatorIndexFailed,
    SyftError,
    WorkerNotFound,
    WorkerShut,
)
from syft.node import certs
from syft.node.certs import Bundle
from syft.node.config import parse_address
from syft.node.connection import dial
from syft.node.link import Link
from syft.node.local import LocalNode
from syft.node.tls import context

from ..helpers import is_empty

pytestmark = pytest.mark.in_process


def test_operators_run_there_and_results_come_home(bob):
    x = sy.send(torch.arange(4.0), bob)
    y = (x * 2 + 1).sqrt()
    assert y.location is bob and y.shape == (4,)
    assert torch.equal(y.get(), (torch.arange(4.0) * 2 + 1).sqrt())
    assert x.sum().item() == 6 and bool(x[0] == 0)


def test_shapes_that_depend_on_values_are_asked_for(bob):
    x = sy.send(torch.tensor([1.0, -1.0, 2.0]), bob)
    assert x[x > 0].shape == (2,) and x.nonzero().shape == (3, 1)


def test_memory_order_is_known_without_asking(bob):
    x = sy.send(torch.arange(24.0).view(4, 6).t()[1:], bob)
    assert torch.equal(x.reshape(-1).get(), torch.arange(24.0).view(4, 6).t()[1:].reshape(-1))


def test_torch_refuses_in_its_own_words_at_the_line_that_asked(bob):
    x = sy.send(torch.zeros(2), bob)
    with pytest.raises(OperatorFailed, match=r"[Bb]roadcast"):
        x + x.new_zeros(3)
    assert torch.equal((x + 1).get(), torch.ones(2))


def test_an_operator_that_fails_there_is_told_by_whoever_uses_its_result(bob):
    singular = sy.send(torch.zeros(2, 2), bob)
    _, info = torch.linalg.inv_ex(singular)
    assert info.item() > 0
    index = sy.send(torch.tensor([7]), bob)
    wrong = singular.index_select(0, index)  # the shape is right; only the values tell that it cannot be
    after = wrong + 1
    with pytest.raises(SyftError, match="index"):
        after.get()
    assert torch.equal((singular + 1).get(), torch.ones(2, 2))


def test_autograd_and_in_place(bob):
    local = torch.randn(5, requires_grad=True)
    w = sy.send(local, bob)
    loss = (w.sin() ** 2).sum()
    loss.backward()
    (local.sin() ** 2).sum().backward()
    assert torch.allclose(w.grad.get(), local.grad)
    y = sy.send(torch.zeros(3, 3), bob)
    y[1] = 5
    y[:, 0].add_(1)
    y.t_()
    assert y.tolist() == [[1, 6, 1], [0, 5, 0], [0, 5, 0]]


def test_chains_over_nodes(bob, alice):
    p = sy.send(torch.arange(3.0), bob).requires_grad_().send(alice)
    (p * p).sum().backward()
    assert p.grad.get().get().tolist() == [0, 2, 4]
    q = p.detach() + 1
    q.mul_(2)
    assert q.get().get().tolist() == [2, 4, 6]
    inner = p.get()
    assert inner.location is bob and inner.get().tolist() == [0, 1, 2]


def test_chains_of_three_nodes(nodes, authority, bob, alice):
    charlie = sy.connect(nodes["charlie"].address, certs=authority / "me")
    x = sy.send(torch.arange(3.0), charlie).send(bob).send(alice)
    assert ((x + 1) * x).get().get().get().tolist() == [0, 2, 6]
    x.remote_get()
    assert (x + 1).get().get().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "go",
    [
        lambda x, alice, charlie: x.send(alice).move(charlie),
        lambda x, alice, charlie: x.send(alice).remote_send(charlie).remote_get().move(charlie),
        lambda x, alice, charlie: x.remote_send(alice).move(charlie),
        lambda x, alice, charlie: x.remote_send(x.location).remote_send(charlie).remote_get().move(charlie),
    ],
    ids=["a pointer", "lent and brought back", "lent", "to itself"],
)
@pytest.mark.parametrize("begin", ["bob", "here"])
def test_who_is_given_a_pointer_reaches_what_it_points_to(nodes, authority, bob, alice, go, begin):
    charlie = sy.connect(nodes["charlie"].address, certs=authority / "me")
    at = bob if begin == "bob" else sy.VirtualWorker(id="here")
    p = go(sy.send(torch.arange(3.0), at), alice, charlie)
    assert p.location is charlie
    assert (p + 1).get().get().tolist() == [1, 2, 3]


def test_chains_cross_in_both_directions(bob, alice):
    one = sy.send(torch.zeros(2), bob).send(alice)
    other = sy.send(torch.zeros(2), alice).send(bob)
    for _ in range(1000):
        one, other = one + 1, other + 2
    assert one.get().get().tolist() == [1000, 1000]
    assert other.get().get().tolist() == [2000, 2000]


def test_a_chain_that_comes_back_to_where_it_began(bob, alice):
    x = sy.send(torch.tensor([3.0, 0.0, 5.0]), bob).send(alice).send(bob).send(alice)
    assert (x + 1).nonzero().get().get().get().get().tolist() == [[0], [1], [2]]
    assert x[x > 0].sum().get().get().get().item() == 8


def test_a_chain_that_comes_back_by_way_of_this_process(bob):
    carol = sy.VirtualWorker(id="carol")
    x = sy.send(torch.tensor([3.0, 0.0, 5.0]), bob).send(carol).send(bob)
    assert (x + 1).nonzero().get().get().get().tolist() == [[0], [1], [2]]


def test_a_chain_that_comes_back_names_no_line_of_this_library_for_what_fails(bob):
    carol = sy.VirtualWorker(id="carol")
    x = sy.send(torch.ones(3), bob).send(carol).send(bob)
    wrong = sy.send(torch.tensor([7]), bob).send(carol).send(bob)
    with pytest.raises(OperatorIndexFailed, match=r"\(at bob\)$"):
        x.index_select(0, wrong).item()


@pytest.mark.parametrize("by_way_of", ["alice", "carol"])
def test_a_chain_is_as_long_as_it_may_be(bob, alice, by_way_of):
    other = alice if by_way_of == "alice" else sy.VirtualWorker(id="carol")
    x = sy.send(torch.zeros(2), bob)
    for hop in range(limits.CHAIN_HOPS):
        x = x.send((other, bob)[hop % 2])
    y = x + 1
    for _ in range(limits.CHAIN_HOPS):
        y = y.get()
    assert y.get().tolist() == [1, 1]
    too_far = x.send(other).send(bob)
    with pytest.raises(LimitExceeded, match="64 times at most"):
        too_far.sum().item()


def test_what_a_chain_did_is_done_when_its_inner_pointer_comes_home(bob, alice):
    for _ in range(20):
        p = sy.send(torch.zeros(2), bob).send(alice)
        for _ in range(5):
            p.add_(1)
        assert p.get().get().tolist() == [5, 5]


def test_moves_go_straight_and_keep_the_id(bob, alice):
    x = sy.send(torch.arange(3.0), bob)
    id = x.id_at_location
    y = x.move(alice)
    assert y.location is alice and y.id_at_location == id
    with pytest.raises(ObjectGone, match="moved to alice"):
        x.get()
    assert y.move(bob).get().tolist() == [0, 1, 2]


def test_moves_keep_labels(bob, alice):
    moved = sy.send(torch.arange(3.0), bob).tag("#mine").describe("three numbers").move(alice)
    (found,) = alice.search("#mine", "three")
    assert found.id_at_location == moved.id_at_location
    assert (found.tags, found.description) == ({"#mine"}, "three numbers")


def test_from_one_room_to_another_at_the_same_node(nodes, authority, bob):
    x = sy.send(torch.arange(3.0), bob)
    later = sy.connect(nodes["bob"].address, certs=authority / "me")
    y = x.move(later)
    assert y.location is later and y.get().tolist() == [0, 1, 2]


def test_virtual_workers_and_nodes_mix(bob, alice):
    carol = sy.VirtualWorker(id="carol")
    assert sy.send(torch.ones(2), bob).move(carol).move(alice).get().tolist() == [1, 1]
    assert (sy.send(torch.ones(2), bob).send(carol) * 2).get().get().tolist() == [2, 2]
    x = sy.send(torch.arange(4.0), carol).send(bob)
    assert len(carol._objects) == 1
    assert (x + x).get().get().tolist() == [0, 2, 4, 6] and x.sum().item() == 6
    assert (x.send(alice) * 3).get().get().get().tolist() == [0, 3, 6, 9]
    large = sy.send(torch.arange(1 << 20), carol).send(bob)
    assert torch.equal((large + 1).remote_get().get(), torch.arange(1, (1 << 20) + 1))
    wrong = sy.send(torch.tensor([7]), carol).send(bob)
    with pytest.raises(OperatorIndexFailed, match=r"index_select\(0, wrong"):
        (sy.send(torch.ones(2), carol).send(bob).index_select(0, wrong) + 1).item()


def test_an_object_with_two_owners_is_sent_on_by_one_of_them(bob, alice):
    x = sy.send(torch.arange(2.0), bob)
    chain = x.send(alice)
    x.remote_send(alice)
    assert x.get().get().tolist() == [0, 1]
    del x, chain
    assert is_empty(bob, alice)


def test_a_chain_keeps_nothing_of_what_it_was(bob, alice):
    p = sy.send(torch.ones(2, 3), bob).send(alice)
    p.t_()
    assert p.get().get().shape == (3, 2)
    assert is_empty(bob, alice)


def test_remote_send_and_remote_get(bob, alice):
    x = sy.send(torch.arange(2.0), bob)
    x.remote_send(alice)
    assert (x + 1).get().get().tolist() == [1, 2]
    y = sy.send(torch.arange(2.0), bob).send(alice)
    y.remote_get()
    assert y.get().tolist() == [0, 1]
    with pytest.raises(Misuse, match="nothing to fetch"):
        sy.send(torch.zeros(1), bob).remote_get()


def test_search_and_tags(bob):
    sent = sy.send(torch.ones(2), bob).tag("#mine").describe("a small vector")
    found = bob.search("#mine", "vector")
    assert [p.id_at_location for p in found] == [sent.id_at_location]
    assert bob.search("#other") == []


def test_a_model_trains_there_as_it_does_here(bob, alice):
    def train(place, home):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x, y = place(torch.randn(16, 6)), place(torch.randint(3, (16,)))
        for step in range(6):
            home(model, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model

    def move(model, step):
        if step == 0:
            sy.send(model, bob)
        elif step == 3:
            sy.move(model, alice)
            sy.move(model, bob)

    local = train(lambda t: t, lambda model, step: None)
    remote = sy.get(train(lambda t: sy.send(t, bob), move))
    for a, b in zip(local.parameters(), remote.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_each_client_has_random_numbers_of_its_own(nodes, authority, bob):
    other = sy.connect(nodes["bob"].address, certs=authority / "me")
    drawn = []
    for worker in (bob, other):
        worker.manual_seed(1)
    for worker in (bob, other, bob):
        torch.manual_seed(1)  # of this process only
        drawn.append(worker.remote.torch.rand(3).get())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_nobody_sees_anothers_objects(nodes, authority, bob):
    mine = sy.send(torch.ones(2), bob).tag("#mine")
    bob.shut()
    other = sy.connect(nodes["bob"].address, certs=authority / "me")
    assert other.search("#mine") == []
    with pytest.raises(WorkerShut, match="left"):
        mine.get()


def test_dropped_pointers_free_their_objects(bob):
    x = sy.send(torch.ones(2), bob).tag("#kept")
    for _ in range(300):
        (x + 1).tag("#dropped")
    gc.collect()
    assert [p.id_at_location for p in bob.search()] == [x.id_at_location]


def test_an_error_that_arrives_late_names_the_line_that_asked_for_it(bob, alice):
    x, wrong = sy.send(torch.arange(3.0), bob), sy.send(torch.tensor([7]), bob)
    picked = x.index_select(0, wrong)
    later = picked + 1
    with pytest.raises(OperatorIndexFailed, match=r"test_nodes.py:\d+, in test_an_error(.|\n)*picked = x.index_select"):
        later.get()
    x, wrong = (sy.send(value, alice) for value in (x, wrong))
    picked_along_the_chain = x.index_select(0, wrong)
    with pytest.raises(OperatorIndexFailed, match=r"picked_along_the_chain = x.index_select"):
        (picked_along_the_chain + 1).get()


def test_an_operator_that_only_checks_fails_at_once(bob):
    indefinite = sy.send(-torch.eye(2), bob)
    with pytest.raises(OperatorFailed, match="not positive-definite"):
        torch.linalg.cholesky(indefinite)


def test_connecting_warms_torch(nodes, authority, monkeypatch):
    monkeypatch.setattr(outline._Warming, "done", None)
    sy.connect(nodes["bob"].address, certs=authority / "me").shut()
    assert outline._Warming.done.wait(20)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "the connection was refused, so nothing listens there"),
        ("nowhere.invalid:7101", "no machine of that name is known"),
        ("a" * 70 + ".b:1", "no machine of that name is known"),
    ],
)
def test_why_no_node_answers_is_said(authority, address, told):
    with pytest.raises(WorkerShut, match=rf"no node answers at {address}: {told}(.|\n)*ready at HOST:PORT"):
        sy.connect(address, certs=authority / "me")


@pytest.mark.parametrize(
    ("address", "told"), [("127.0.0.1:1", "Connection refused"), ("nowhere.invalid:1", "(?i:name)")]
)
def test_a_link_that_meets_nobody_says_why(authority, address, told):
    tls = context(Bundle.load(authority / "me"), server_side=False)
    with pytest.raises(WorkerShut, match=rf"{address} cannot be reached: .*{told}"):
        Link(address, lambda: dial(parse_address(address), tls, "bob"), "session")


def test_the_authority_of_another_is_said(authority, tmp_path, nodes):
    certs.init(tmp_path)
    with pytest.raises(BadCertificate, match=r"no certificate of your authority, .*me/ca.pem(.|\n)*of one authority"):
        sy.connect(nodes["bob"].address, certs=certs.issue(tmp_path, "me"))


def test_a_node_at_an_address_of_ipv6(authority):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with LocalNode(authority, "six", options=["--listen", "[::1]:0"]) as node:
        assert re.fullmatch(r"\[::1\]:\d+", node.address)
        with_six = sy.connect(node.address, certs=authority / "me", id="six")
        assert (sy.send(torch.ones(2), with_six) + 1).get().tolist() == [2, 2]
        with_six.shut()


def test_a_worker_is_left_at_the_end_of_a_with(nodes, authority):
    with sy.connect(nodes["bob"].address, certs=authority / "me") as bob:
        x = sy.send(torch.ones(2), bob)
        assert x.sum().item() == 2 and sy.get_worker("bob") is bob
    with pytest.raises(WorkerShut, match="you have left"):
        x.sum()
    with pytest.raises(WorkerNotFound):
        sy.get_worker("bob")


def test_of_two_connections_to_a_node_the_later_one_has_the_name(nodes, authority, bob, alice):
    x = sy.send(torch.arange(3.0), bob)
    again = sy.connect(nodes["bob"].address, certs=authority / "me")
    y = sy.send(torch.ones(3), alice)
    for go in (lambda: x.send(alice), lambda: y.move(bob), lambda: y.remote_send(bob)):
        with pytest.raises(Misuse, match=r"connected to bob again(.|\n)*sy\.get_worker\('bob'\)"):
            go()
    assert (x + 1).get().tolist() == [1, 2, 3]  # all else goes on
    assert y.move(again).sum().item() == 3
    again.shut()
    bob.add_worker(bob)
    assert (sy.send(torch.ones(3), alice).move(bob) + x).get().tolist() == [1, 2, 3]
