"""A worker: bytes in, bytes out. A request that fails changes nothing."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from syft import wire
from syft.errors import BY_CODE, MalformedMessage, SyftError, WorkerNotFound
from syft.messages import (
    Answer,
    Clear,
    Describe,
    Done,
    Failure,
    Fetch,
    Found,
    Get,
    Give,
    List,
    Placed,
    Point,
    Put,
    Ran,
    Release,
    Request,
    Retain,
    Run,
    Search,
    Seed,
    Value,
)
from syft.wire import Meta, Ref, Reference
from syft.worker import Worker, error_of

pytestmark = pytest.mark.in_process


def alone(name: str) -> Any:
    raise WorkerNotFound(f"no worker called {name}", where="here", mend="make it")


def ask(worker: Worker, message: Request) -> Answer:
    return cast(Answer, wire.decode(worker.handle_frames(wire.encode(message)), cast(Any, Answer)))


def snapshot(worker: Worker) -> Any:
    store = worker.store
    objects = {id: (value.tolist(), value.stride()) for id, value in store.objects.items()}
    return objects, *(dict(d) for d in (store._labels, store._further_owners, store._policies)), set(store._hidden)


@pytest.fixture
def worker() -> Worker:
    return filled()


def filled() -> Worker:
    worker = Worker("bob", alone)
    for message in (
        Put(1, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("#one",), "the first matrix"),
        Put(2, torch.tensor([1, 2, 3])),
        Put(3, torch.tensor([5.0]), allowed=("alice",)),
    ):
        assert isinstance(ask(worker, message), Placed)
    return worker


def test_run_names_its_results_and_answers_metadata(worker: Worker) -> None:
    answer = ask(worker, Run("aten::add.Tensor", [Ref(1), 2.0], {"alpha": 3}, (10,)))
    assert answer == Ran((Meta("float32", (2, 2), (2, 1)),))
    assert worker.store.objects[10].tolist() == [[7, 8], [9, 10]]


def test_run_with_several_results_lists_and_writes(worker: Worker) -> None:
    assert len(ask(worker, Run("aten::max.dim", [Ref(1), 0], {}, (10, 11))).outputs) == 2
    assert worker.store.objects[11].tolist() == [1, 1]
    assert len(ask(worker, Run("aten::cat", [[Ref(1), Ref(1)]], {}, (12,))).outputs) == 1
    assert ask(worker, Run("aten::add_.Tensor", [Ref(1), 1], {}, ())) == Ran((Meta("float32", (2, 2), (2, 1)),))
    assert worker.store.objects[1].tolist() == [[2, 3], [4, 5]]


def test_get_with_and_without_taking(worker: Worker) -> None:
    assert ask(worker, Get(2)).value.tolist() == [1, 2, 3]
    assert 2 in worker.store.listed()
    assert ask(worker, Get(2, 20)).value.tolist() == [1, 2, 3]
    assert sorted(worker.store.listed()) == [1, 3]
    assert ask(worker, Get(2)).code == "object-gone"
    assert "taken home by a get" in ask(worker, Get(2)).what
    assert ask(worker, Get(20)).value.tolist() == [1, 2, 3]
    assert ask(worker, Release((20,))) == Done()
    assert ask(worker, Get(20)).code == "object-gone"


def test_owners_are_counted(worker: Worker) -> None:
    assert ask(worker, Retain(2)) == Done()
    ask(worker, Release((2,)))
    assert 2 in worker.store.objects
    ask(worker, Release((2, 2, 77)))
    assert 2 not in worker.store.objects


def test_an_id_is_free_again_when_all_owners_of_what_was_taken_have_let_go(worker: Worker) -> None:
    ask(worker, Retain(2))
    ask(worker, Get(2, 20))
    assert ask(worker, Put(2, torch.ones(1))).code == "id-in-use"
    ask(worker, Release((2,)))
    assert ask(worker, Put(2, torch.ones(1))) == Placed(Meta.of(torch.ones(1)))


def test_labels_and_search(worker: Worker) -> None:
    ask(worker, Describe(2, ("#two",), "second, a vector"))
    assert [found[0] for found in ask(worker, Search(("two",))).objects] == [2]
    assert ask(worker, Search(("#one", "MATRIX"))).objects == (
        (1, Meta("float32", (2, 2), (2, 1)), ("#one",), "the first matrix"),
    )
    assert ask(worker, Search(("#one", "vector"))) == Found(())
    assert [found[0] for found in ask(worker, Search(())).objects] == [1, 2]
    assert [found[0] for found in ask(worker, Search(("3",))).objects] == [3]
    assert [found[0] for found in ask(worker, List()).objects] == [1, 2, 3]


def test_clear_and_shut(worker: Worker) -> None:
    assert ask(worker, Clear()) == Done()
    assert "cleared" in ask(worker, Get(1)).what
    worker.shut()
    assert ask(worker, Put(1, torch.ones(1))).code == "worker-shut"
    assert ask(worker, Release((1,))) == Done()


def test_privacy_follows_what_is_computed(worker: Worker) -> None:
    ask(worker, Run("aten::mul.Tensor", [Ref(1), Ref(3)], {}, (10,)))
    ask(worker, Run("aten::copy_", [Ref(1), Ref(3)], {}, ()))
    for id in (1, 3, 10):
        assert ask(worker, Get(id)).code == "get-not-permitted"
        assert isinstance(ask(worker, Get(id, None, "alice")), Value)
    assert isinstance(ask(worker, Get(2)), Value)


FAILURES = {
    "object-gone": [
        Get(99), Get(99, 100), Retain(99), Describe(99, (), ""), Fetch(99), Give(99, "alice", 1),
        Run("aten::neg", [Ref(99)], {}, (10,)), Run("aten::cat", [[Ref(1), Ref(99)]], {}, (10,)),
        Run("aten::add.out", [Ref(1), Ref(1)], {"out": Ref(99)}, ()),
    ],
    "id-in-use": [Put(1, torch.ones(1)), Run("aten::neg", [Ref(1)], {}, (2,)), Get(1, 2), Get(1, 1), Give(1, "", 9, 2)],
    "operator-not-allowed": [Run("aten::from_file", ["x"], {}, (10,)), Run("os::system", [], {}, ())],
    "operator-failed": [
        Run("aten::mm", [Ref(1), Ref(2)], {}, (10,)), Run("aten::add_.Tensor", [Ref(2), 1.5], {}, ()),
        Run("aten::neg", [], {}, (10,)), Run("aten::neg", ["x"], {}, (10,)),
        Run("aten::neg", [Ref(1)], {"no": 1}, (10,)),
    ],
    "operator-index-failed": [Run("aten::select.int", [Ref(1), 0, 7], {}, (10,))],
    "get-not-permitted": [Get(3), Get(3, 10, "eve")],
    "send-not-permitted": [Give(3, "alice", 5, 6, "eve"), Give(3, "alice", 5)],
    "worker-not-found": [Give(1, "nobody", 5, 6), Give(1, "nobody", 5)],
    "misuse": [Fetch(1)],
    "malformed-message": [
        Put(9, "text"), Put(9, None), Run("aten::neg", [Ref(1)], {}, ()), Run("aten::max.dim", [Ref(1), 0], {}, (10,)),
        Run("aten::max.dim", [Ref(1), 0], {}, (10, 10)), Run("aten::add_.Tensor", [Ref(1), 1], {}, (10,)),
        Run("aten::unbind.int", [Ref(1)], {}, (10,)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message"), [(code, m) for code, messages in FAILURES.items() for m in messages], ids=repr
)
def test_failures_have_codes_and_change_nothing(worker: Worker, code: str, message: Request) -> None:
    before = snapshot(worker)
    answer = ask(worker, message)
    assert isinstance(answer, Failure)
    assert answer.code == code, answer
    assert answer.what
    assert snapshot(worker) == before
    with pytest.raises(BY_CODE[code]) as caught:
        raise error_of(answer)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (answer.what, answer.where, answer.mend)


def test_an_unknown_code_is_an_error_of_syft() -> None:
    with pytest.raises(SyftError, match="what"):
        raise error_of(Failure("from the future", "what", "", ""))


ids = st.integers(0, 4) | st.sampled_from([10, 11])
arguments = st.recursive(
    ids.map(Ref) | st.integers(-3, 3) | st.floats(), lambda a: st.lists(a, max_size=3), max_leaves=4
)
names = st.sampled_from(
    ["aten::add_.Tensor", "aten::mul.Tensor", "aten::max.dim", "aten::cat", "aten::t_", "aten::neg", "no"]
)
requests = st.one_of(
    st.builds(Run, names, st.lists(arguments, max_size=3), st.just({}), st.lists(ids, max_size=2).map(tuple)),
    st.builds(Put, ids, st.sampled_from([1, None, "x", torch.ones(2)])),
    st.builds(Get, ids, st.none() | ids, st.sampled_from(["", "alice"])),
    st.builds(Give, ids, st.just("nobody"), ids, st.none() | ids),
    st.builds(Fetch, ids),
    st.builds(Point, ids, st.sampled_from([1, torch.ones(2), Reference("nobody", 1, Meta("float32", (), ()))])),
    st.builds(Retain, ids),
    st.builds(Describe, ids, st.just(("#t",)), st.just("")),
)


@given(st.lists(requests, max_size=6))
def test_a_request_that_fails_changes_nothing(messages: list[Request]) -> None:
    worker = filled()
    for message in messages:
        before = snapshot(worker)
        if isinstance(ask(worker, message), Failure):
            assert snapshot(worker) == before


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_get_an_answer(frames: list[bytes]) -> None:
    worker = filled()
    before = snapshot(worker)
    answer = wire.decode(worker.handle_frames(frames), cast(Any, Answer))
    assert snapshot(worker) == before or not isinstance(answer, Failure)


def test_an_answer_is_not_a_request(worker: Worker) -> None:
    answer = wire.decode(worker.handle_frames(wire.encode(Done())), Failure)
    assert answer.code == MalformedMessage.code
    answer = wire.decode(worker.handle_frames([msgspec.msgpack.encode(["put", -1, None])]), Failure)
    assert answer.code == MalformedMessage.code


def test_private_data_may_be_picked_by_whole_numbers_but_not_by_a_mask(worker: Worker) -> None:
    ask(worker, Put(20, torch.tensor([0])))
    ask(worker, Put(21, torch.tensor([True])))
    assert isinstance(ask(worker, Run("aten::index.Tensor", [Ref(3), [Ref(20)]], {}, (22,))), Ran)
    answer = ask(worker, Run("aten::index.Tensor", [Ref(3), [Ref(21)]], {}, (23,)))
    assert isinstance(answer, Failure) and answer.code == "not-permitted"
    assert ask(worker, Get(22)).code == "get-not-permitted"  # type: ignore[union-attr]


def test_private_data_written_by_a_message_that_names_all_arguments(worker: Worker) -> None:
    private = worker.store.objects[3]
    ask(worker, Put(21, torch.zeros(private.shape, dtype=private.dtype)))
    assert isinstance(ask(worker, Run("aten::copy_", [], {"self": Ref(21), "src": Ref(3)}, ())), Ran)
    assert ask(worker, Get(21)).code == "get-not-permitted"  # type: ignore[union-attr]
    ask(worker, Put(22, torch.tensor([True])))
    answer = ask(worker, Run("aten::index.Tensor", [], {"self": Ref(3), "indices": [Ref(22)]}, (23,)))
    assert isinstance(answer, Failure) and answer.code == "not-permitted"
    answer = ask(worker, Run("aten::index.Tensor", [Ref(3), 5], {}, (23,)))
    assert isinstance(answer, Failure)


def test_random_numbers_start_anew_from_a_seed(worker: Worker) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    assert ask(worker, Seed(7)) == Done()
    ask(worker, Run("aten::rand", [[2]], {}, (4,)))
    assert torch.equal(ask(worker, Get(4)).value, expected)  # type: ignore[union-attr]
    assert ask(worker, Seed(-1)).code == "malformed-message"  # type: ignore[union-attr]


def test_a_give_under_one_name_for_two_objects_changes_nothing() -> None:
    worker = filled()
    worker._peer = lambda name: cast(Any, ToItself(worker))
    before = snapshot(worker)
    assert isinstance(ask(worker, Give(1, "bob", 9, 9)), Failure)
    assert snapshot(worker) == before


class ToItself:
    """A worker as its own peer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def put(self, value: torch.Tensor, id: int, *_: Any) -> Any:
        return cast(Placed, self._worker.handle(Put(id, value.clone()))).meta
