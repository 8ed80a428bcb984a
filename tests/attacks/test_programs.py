"""No sequence of operators turns a denied get into an allowed one: random programs over the whole table."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import pytest
import torch

from syft.errors import NotPermitted, OperatorFailed, SyftError, WorkerShut
from syft.ids import new_id
from syft.messages import Fetch, Get, List, Put, Retain, Retire, Run, Search
from syft.operators import BY_NAME, Operator, allowed
from syft.wire import Ref

from .conftest import SECRETS, Attacker

pytestmark = pytest.mark.in_process

PROGRAMS, STEPS = 6, 400

_NUMBERS = {
    "int": (0, 1, 2, -1),
    "float": (0.5, 1.0),
    "number": (1, 2.0),
    "bool": (True, False),
    "str": ("sum", "mean"),
}


class Program:
    """Random calls of the operators of the table, on the owner's data and on what came of it."""

    def __init__(self, seed: int, secret: int) -> None:
        self._random = random.Random(seed)
        self._names = sorted(allowed())
        self.objects = [secret]

    def step(self) -> Run:
        operator = BY_NAME[self._random.choice(self._names)]
        args, kwargs = [], {}
        for argument in operator.schema.arguments:
            if argument.has_default_value() and self._random.random() < 0.7:
                if argument.kwarg_only:
                    continue
                args.append(argument.default_value)
            elif argument.kwarg_only:
                kwargs[argument.name] = self._value(str(argument.real_type))
            else:
                args.append(self._value(str(argument.real_type)))
        return Run(operator.name, args, kwargs, tuple(new_id() for _ in range(_results(operator))))

    def _value(self, kind: str) -> Any:
        if kind.startswith("Optional["):
            return self._value(kind[9:-1]) if self._random.random() < 0.5 else None
        if kind.startswith("List["):
            return [self._value(kind[5:-1]) for _ in range(self._random.choice((1, 2)))]
        if kind == "Tensor":
            return Ref(self._random.choice(self.objects))
        return self._random.choice(_NUMBERS[kind]) if kind in _NUMBERS else None


def _results(operator: Operator) -> int:
    return 2 if operator.gives_list else 1 if operator.gives_value else operator.returned.count(None)


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_what_may_not_leave_does_not(mallory: Attacker, seed: int) -> None:
    (found,) = mallory.worker.search("#heart")
    program, refused, ran, texts = Program(seed, found.id_at_location), 0, 0, []
    own = new_id()
    mallory.ask(Put(own, torch.zeros(2, 2)))
    with pytest.raises(NotPermitted):  # the owner's data is in the room from here on
        mallory.run("aten::add.Tensor", [Ref(own), Ref(found.id_at_location)])
    program.objects.append(own)
    for _ in range(STEPS):
        message = program.step()
        try:
            mallory.ask(message)
        except NotPermitted:
            ran += 1  # the room did it; its metadata may not be seen
        except OperatorFailed as failed:
            texts.append(str(failed))
            continue
        except WorkerShut:
            return  # the room has ended, alone, and with it all that was in it
        except SyftError:
            continue
        else:
            continue
        program.objects += message.results
        for take in (Get(program.objects[-1]), Get(program.objects[-1], new_id()), Get(own)):
            with pytest.raises(SyftError) as caught:
                mallory.ask(take)
            assert not _tells(str(caught.value))
            refused += 1
    assert not any(map(_tells, texts))
    assert ran >= 5 and refused == 3 * ran


def _tells(text: str) -> bool:
    text = re.sub(r"\d{10,}", "", text)  # ids, in which any four digits may be
    return any(f"{abs(number):.2f}"[:4] in text for number in SECRETS.flat)


@pytest.mark.parametrize(
    "message",
    [Search(()), Search(("#mine",)), List()],
    ids=repr,
)
def test_nor_by_the_names_of_what_is_there(mallory: Attacker, message: Any) -> None:
    (found,) = mallory.worker.search("#heart")
    mallory.worker.search("#heart")[0].sum().tag("#mine").describe("4177.25")
    try:
        listed = mallory.ask(message).objects
    except NotPermitted:
        return
    assert {entry[0] for entry in listed} <= {found.id_at_location}


@pytest.mark.parametrize("kind", ["retire", "retain", "fetch"])
def test_nor_under_another_name(mallory: Attacker, kind: str) -> None:
    (found,) = mallory.worker.search("#heart")
    id, other = found.id_at_location, new_id()
    message = {"retire": Retire((id,), (other,), ""), "retain": Retain(id), "fetch": Fetch(id)}[kind]
    with suppress(SyftError):
        mallory.ask(message)
    for name in (id, other):
        with pytest.raises(SyftError):
            mallory.ask(Get(name))
