"""The hook adds words to torch's classes, replaces nothing, and stands back for what users call by the same names."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

import syft as sy
from syft.errors import LimitExceeded, Misuse
from syft.torch_hook import WORDS

NOTHING_IS_REPLACED = """
import torch
from torch.utils.data import Dataset

def everything():
    kinds = {"Tensor": torch.Tensor, "Module": torch.nn.Module, "Dataset": Dataset, "Parameter": torch.nn.Parameter,
             "Optimizer": torch.optim.Optimizer, "torch": torch, "functional": torch.nn.functional}
    return {(kind, name): value for kind, thing in kinds.items() for name, value in vars(thing).items()}

before = everything()
import syft
assert {k: v for k, v in everything().items() if before.get(k) is not v and "." not in k[1]} == {}, "by the import"
syft.TorchHook(torch)
after = everything()
for key, value in before.items():
    assert after[key] is value, key
print(*sorted(f"{kind}.{name}" for kind, name in after.keys() - before.keys()))
"""


@pytest.mark.in_process
def test_nothing_of_torch_is_replaced_and_only_the_table_is_added() -> None:
    done = subprocess.run([sys.executable, "-c", NOTHING_IS_REPLACED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(f"{kind.__name__}.{name}" for kind, words in WORDS.items() for name in words)


WITHOUT_A_HOOK = """
import torch, syft as sy
bob, alice = sy.VirtualWorker(id="bob"), sy.VirtualWorker(id="alice")
assert sy.hook is None and sy.local_worker.id == "me"
x = sy.tag(torch.tensor([1.0, 2.0]), "#numbers")
assert not hasattr(x, "send")
p = sy.send(x, bob)
assert [q.location for q in bob.search("#numbers")] == [bob]
c = sy.copy(sy.move(p + p, alice))
assert sy.get(c).tolist() == [2.0, 4.0]
model = sy.send(torch.nn.Linear(2, 1), bob)
assert model(p).shape == (1,)
assert sy.get(model).weight.device.type == "cpu" and not hasattr(model, "send")
"""


@pytest.mark.in_process
def test_without_a_hook_the_words_are_functions_and_torch_is_untouched() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_HOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_exact_sorted_and_there() -> None:
    assert sy.__all__ == sorted(sy.__all__)
    assert set(sy.__all__) == {
        "BaseDataset",
        "FederatedDataLoader",
        "FederatedDataset",
        "LoggingTensor",
        "MultiPointerTensor",
        "Optims",
        "PointerTensor",
        "PrivateGridNetwork",
        "SyftError",
        "TorchHook",
        "VirtualWorker",
        "combine_pointers",
        "connect",
        "copy",
        "create_sandbox",
        "describe",
        "draw",
        "federate",
        "get",
        "get_worker",
        "make_hook",
        "move",
        "private_tensor",
        "send",
        "send_",
        "tag",
    }
    assert all(hasattr(sy, name) for name in sy.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        sy.no_such_name  # noqa: B018


def test_hook_and_local_worker() -> None:
    hook = sy.TorchHook(torch)
    assert sy.hook is hook
    assert hook.local_worker is sy.local_worker
    assert sy.local_worker.id == "me"
    hook.local_worker.is_client_worker = False  # type: ignore[attr-defined]  # as PySyft's tutorial 8 does


def test_a_second_hook_changes_nothing(bob: sy.VirtualWorker) -> None:
    sy.TorchHook(torch)
    before = {name: vars(torch.Tensor)[name] for name in WORDS[torch.Tensor]}
    p = torch.ones(2).send(bob)
    second = sy.TorchHook(torch)
    assert {name: vars(torch.Tensor)[name] for name in WORDS[torch.Tensor]} == before
    assert sy.hook is second
    assert (p + p).get().tolist() == [2.0, 2.0]


def test_another_local_worker_holds_the_pointers(bob: sy.VirtualWorker) -> None:
    laptop = sy.VirtualWorker(id="laptop")
    hook = sy.TorchHook(torch, local_worker=laptop)
    assert hook.local_worker is laptop is sy.local_worker
    p = torch.ones(2).send(bob)
    assert p.owner is laptop
    assert repr(p).startswith("(Wrapper)>[PointerTensor | laptop:")
    assert (p + p).move(laptop).tolist() == [2.0, 2.0]


def test_a_seed_fixes_ids(bob: sy.VirtualWorker) -> None:
    def ids() -> list[int]:
        sy.TorchHook(torch, seed=7)
        return [torch.ones(1).id, torch.ones(1).send(bob).id_at_location]

    assert ids() == ids()


def test_a_seed_gives_no_id_that_is_in_use(bob: sy.VirtualWorker) -> None:
    def cell() -> torch.Tensor:
        sy.TorchHook(torch, seed=7)
        p = torch.ones(2).send(bob)
        return p + p

    first = cell()
    assert (cell() + first).get().tolist() == [4.0, 4.0]


def test_a_hook_is_made_for_torch() -> None:
    with pytest.raises(Misuse, match="made for torch"):
        sy.TorchHook("torch")  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["get", "get_", "move", "move_", "remote_send", "remote_get"])
def test_what_is_of_pointers_says_so_on_a_local_tensor(hook: sy.TorchHook, bob: sy.VirtualWorker, verb: str) -> None:
    arguments = (bob,) if verb in {"move", "move_", "remote_send"} else ()
    with pytest.raises(Misuse, match="is here already"):
        getattr(torch.ones(2), verb)(*arguments)
    assert bob._objects == {}


def test_words_of_a_local_tensor(hook: sy.TorchHook) -> None:
    x = torch.tensor([1.0, 2.0])
    assert (x.owner, x.location, x.id_at_location) == (sy.local_worker, None, None)
    assert (x.tags, x.description) == (set(), "")
    assert x.tag("#a", "#b").tag("#b").describe("two numbers") is x
    assert (x.tags, x.description) == ({"#a", "#b"}, "two numbers")
    assert x.id == x.id != torch.ones(1).id
    assert not hasattr(x, "gc")
    with pytest.raises(LimitExceeded):
        x.tag("#" + "a" * 10_000)
    assert x.tags == {"#a", "#b"}


def test_copy_of_a_local_tensor(hook: sy.TorchHook) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x.copy()
    assert (y.id != x.id, y.is_leaf, y.requires_grad) == (True, True, True)
    with torch.no_grad():
        y.add_(1)
    assert x.tolist() == [1.0, 2.0]


def test_words_of_a_pointer_are_its_own(hook: sy.TorchHook, bob: sy.VirtualWorker) -> None:
    x = torch.tensor([1.0, 2.0]).tag("#a").describe("two numbers")
    p = x.send(bob)
    assert (p.location, p.id_at_location, p.owner) == (bob, x.id, sy.local_worker)
    assert (p.tags, p.description, p.gc) == ({"#a"}, "two numbers", True)
    assert p.id != x.id
    with pytest.raises(Misuse, match="before you send it"):
        p.private_tensor(allowed_users=["eve"])
    with pytest.raises(Misuse, match="before you send it"):
        p.allow("eve")


def test_several_workers_and_combined_pointers(
    hook: sy.TorchHook, bob: sy.VirtualWorker, alice: sy.VirtualWorker
) -> None:
    both = torch.tensor([1.0, 2.0]).send(bob, alice)
    assert isinstance(both, sy.MultiPointerTensor)
    assert both.get(sum_results=True).tolist() == [2.0, 4.0]
    p, q = torch.tensor([1.0]).send(bob), torch.tensor([2.0]).send(alice)
    assert [t.tolist() for t in (p.combine(q) * 2).get()] == [[2.0], [4.0]]
    with pytest.raises(Misuse, match="only pointers"):
        p.combine(torch.ones(1))


def test_send_in_place_and_back(hook: sy.TorchHook, bob: sy.VirtualWorker) -> None:
    x = same = torch.tensor([1.0, 2.0])
    x.send_(bob)
    assert x is same
    assert isinstance(same, sy.PointerTensor)
    assert len(bob._objects) == 1
    assert x.get_() is same
    assert (type(same), same.tolist(), bob._objects) == (torch.Tensor, [1.0, 2.0], {})


def test_send_inplace_is_send_in_place(hook: sy.TorchHook, bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    x = torch.tensor([1.0, 2.0])
    assert x.send(bob, inplace=True) is x
    assert (x.location, len(bob._objects)) == (bob, 1)
    assert x.send(alice, inplace=True) is x
    assert (x.location, x.get().get().tolist()) == (alice, [1.0, 2.0])


def test_local_tensors_and_parameters_stay_what_they_are(hook: sy.TorchHook) -> None:
    x = torch.tensor([1.0, 2.0]).tag("#a").describe("numbers")
    twin, parameter = copy.deepcopy(x), nn.Parameter(torch.ones(2))
    assert (twin.tolist(), twin.tags) == ([1.0, 2.0], {"#a"})
    assert pickle.loads(pickle.dumps(x)).tags == {"#a"}
    assert copy.deepcopy(parameter).location is None
    assert isinstance(copy.deepcopy(parameter), nn.Parameter)
    file = io.BytesIO()
    torch.save({"x": x, "private": x.private_tensor(allowed_users=["eve"]), "p": parameter}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert (loaded["x"].description, loaded["private"].allow("eve"), loaded["private"].allow("bob")) == (
        "numbers",
        True,
        False,
    )
    assert torch.equal(loaded["p"], parameter)


class Crowded(nn.Module):
    """A model that has things of its own by the hook's names."""

    def __init__(self) -> None:
        super().__init__()
        self.copy = nn.Linear(2, 2)
        self.location = nn.Parameter(torch.ones(2))
        self.register_buffer("owner", torch.zeros(2))
        self.add_module("get", nn.ReLU())
        self.move = "a word"

    def send(self) -> str:
        return "sent"


def test_a_models_own_names_come_first(hook: sy.TorchHook) -> None:
    model = Crowded()
    assert isinstance(model.copy, nn.Linear)
    assert isinstance(model.location, nn.Parameter)
    assert torch.equal(model.owner, torch.zeros(2))
    assert isinstance(model.get, nn.ReLU)
    assert (model.move, model.send()) == ("a word", "sent")
    assert set(model.state_dict()) == {"copy.weight", "copy.bias", "location", "owner"}
    assert model.copy(model.location).shape == (2,)
    named = nn.Sequential(OrderedDict(move=nn.Linear(2, 2)))
    assert isinstance(named.move, nn.Linear)
    with pytest.raises(KeyError, match="already exists"):
        named.register_buffer("forward", torch.ones(1))


def test_a_crowded_model_is_sent_by_function(hook: sy.TorchHook, bob: sy.VirtualWorker) -> None:
    model = sy.send(Crowded(), bob)
    assert model.location.location is bob
    assert len(bob._objects) == 4
    sy.get(model)
    assert (type(model.location), bob._objects) == (nn.Parameter, {})


def test_a_tensor_subclass_keeps_its_own_names(hook: sy.TorchHook) -> None:
    class Labelled(torch.Tensor):
        tags = "my own"

    x = torch.ones(2).as_subclass(Labelled)
    x.location = "shelf"  # type: ignore[misc,assignment]
    assert (x.tags, x.location) == ("my own", "shelf")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_modules_still_compile(hook: sy.TorchHook) -> None:
    assert torch.jit.script(nn.Linear(2, 3))(torch.ones(2)).shape == (3,)


def test_words_of_a_module(hook: sy.TorchHook, bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    expected = model(torch.ones(2)).item()
    assert (model.location, model.owner) == (None, sy.local_worker)
    twin = model.copy().send(bob)
    assert (twin.location, model.location) == (bob, None)
    assert twin(torch.ones(2).send(bob)).item() == expected
    assert twin.move(alice) is twin
    assert (twin.location, bob._objects, len(alice._objects)) == (alice, {}, 2)
    assert twin.get()(torch.ones(2)).item() == expected
    assert alice._objects == {}


def test_a_module_that_is_sent_to_where_it_is_stays_as_it_is(hook: sy.TorchHook, bob: sy.VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    weight = model.weight.tolist()
    model.send(bob)
    ids = list(bob._objects)
    assert model.send(bob) is model
    assert list(bob._objects) == ids
    assert model.get().weight.tolist() == weight
    assert bob._objects == {}


def test_a_module_is_sent_to_one_worker(hook: sy.TorchHook, bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    for workers in ((), (bob, alice)):
        with pytest.raises(Misuse, match=f"to one worker, not to {len(workers)}"):
            model.send(*workers)
    with pytest.raises(Misuse, match="not to a NoneType"):
        model.send(None)
    assert (model.location, bob._objects) == (None, {})
