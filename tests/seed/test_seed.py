"""The seed document: its code cells, unchanged and in order, and what a reader sees after each."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCUMENT = Path(__file__).parent / "tutorial-part-3.es.txt"


def code_cells() -> list[str]:
    """Take the cells from the document: what follows ``In [ ]:`` as far as it is Python."""
    cells = []
    for text in DOCUMENT.read_text(encoding="utf-8").split("In\xa0[\xa0]:\n")[1:]:
        lines: list[str] = []
        for line in text.splitlines():
            if line and not _is_code(line):
                break
            lines.append(line)
        cells.append("\n".join(lines).strip())
    return cells


def _is_code(line: str) -> bool:
    if line.startswith("#"):
        return True
    try:
        ast.parse(line)
    except SyntaxError:
        return False
    return True


class Notebook:
    """Runs cells one after the other in one namespace, as a notebook does."""

    def __init__(self, cells: list[str]) -> None:
        self.cells = iter(cells)
        self.names: dict[str, Any] = {}

    def run(self, expected: str) -> Any:
        """Run the next cell, whose last line is ``expected``; return the value of its last expression."""
        cell = next(self.cells)
        assert cell.splitlines()[-1] == expected
        body = ast.parse(cell).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), self.names)
        if last is not None:
            return eval(compile(ast.Expression(last.value), "cell", "eval"), self.names)
        return None


def test_the_cells_are_all_taken() -> None:
    cells = code_cells()
    assert len(cells) == 25
    assert cells[0] == "import torch\nimport syft as sy\nhook = sy.TorchHook(torch)"
    assert cells[-1] == "x"


def shown(pattern: str, value: object) -> dict[str, int]:
    """Match what is displayed with ``pattern``, in which <name> stands for an id; return the ids."""
    regex = re.sub(r"<(\w+)>", r"(?P<\1>[0-9]+)", re.escape(pattern))
    found = re.fullmatch(regex, repr(value))
    assert found, f"{value!r} is not as {pattern!r}"
    return {name: int(id) for name, id in found.groupdict().items()}


def test_the_document_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = Notebook(code_cells())
    run, names = notebook.run, notebook.names

    run("hook = sy.TorchHook(torch)")
    run("alice = sy.VirtualWorker(hook, id='alice')")
    bob, alice = names["bob"], names["alice"]
    assert repr(run("x")) == "tensor([1, 2, 3, 4])"

    # Section 3.1: a pointer, and a pointer to it
    first = shown("(Wrapper)>[PointerTensor | me:<ptr> -> bob:<data>]", run("x_ptr"))
    second = shown("(Wrapper)>[PointerTensor | me:<ptr> -> alice:<inner>]", run("pointer_to_x_ptr"))
    assert second["inner"] == first["ptr"]
    assert shown("{<data>: tensor([1, 2, 3, 4])}", run("bob._objects")) == {"data": first["data"]}
    held = shown("{<key>: (Wrapper)>[PointerTensor | alice:<ptr> -> bob:<data>]}", run("alice._objects"))
    assert held == {"key": first["ptr"], "ptr": first["ptr"], "data": first["data"]}
    assert shown("(Wrapper)>[PointerTensor | me:<ptr> -> bob:<data>]", run("x_ptr"))["data"] == first["data"]
    assert alice._objects == {}
    assert repr(run("x")) == "tensor([1, 2, 3, 4])"

    # Arithmetic on a pointer to a pointer
    assert run("bob._objects") == {}
    assert run("alice._objects") == {}
    run("y = p2p2x + p2p2x")
    at_bob = shown("{<x>: tensor([1, 2, 3, 4, 5]), <y>: tensor([ 2,  4,  6,  8, 10])}", run("bob._objects"))
    at_alice = shown(
        "{<kx>: (Wrapper)>[PointerTensor | alice:<px> -> bob:<x>], "
        "<ky>: (Wrapper)>[PointerTensor | alice:<py> -> bob:<y>]}",
        run("alice._objects"),
    )
    assert (at_alice["x"], at_alice["y"]) == (at_bob["x"], at_bob["y"])
    assert (at_alice["kx"], at_alice["ky"]) == (at_alice["px"], at_alice["py"])
    assert repr(run("y.get().get()")) == "tensor([ 2,  4,  6,  8, 10])"
    assert shown("{<x>: tensor([1, 2, 3, 4, 5])}", run("bob._objects")) == {"x": at_bob["x"]}
    left = shown("{<kx>: (Wrapper)>[PointerTensor | alice:<px> -> bob:<x>]}", run("alice._objects"))
    assert left == {name: at_alice[name] for name in left}
    assert repr(run("p2p2x.get().get()")) == "tensor([1, 2, 3, 4, 5])"
    assert run("bob._objects") == {}
    assert run("alice._objects") == {}

    # Section 3.2: from one worker to the other, and not through here
    run("x = torch.tensor([1,2,3,4,5]).send(bob)")
    id = names["x"].id_at_location
    capsys.readouterr()
    run("print('alice:',alice._objects)")
    assert capsys.readouterr().out == f"  bob: {{{id}: tensor([1, 2, 3, 4, 5])}}\nalice: {{}}\n"
    run("x = x.move(alice)")
    run("print('alice:',alice._objects)")
    assert capsys.readouterr().out == f"  bob: {{}}\nalice: {{{id}: tensor([1, 2, 3, 4, 5])}}\n"
    assert shown("(Wrapper)>[PointerTensor | me:<ptr> -> alice:<data>]", run("x"))["data"] == id
    assert next(notebook.cells, None) is None
    assert torch.equal(names["x"].get(), torch.tensor([1, 2, 3, 4, 5]))
    assert (bob._objects, alice._objects) == ({}, {})
