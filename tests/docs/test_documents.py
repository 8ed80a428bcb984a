"""Every document's code runs, and shows what the document says that it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .documents import DOCUMENTS, ROOT, Shown, codes_and_outputs, run, write

pytestmark = pytest.mark.in_process

_ID = re.compile(r"(?:\b\d{9,14}|…)(\d{5})\b|\b([0-9a-f]{12})\b")  # of objects, and of requests
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_DECIMAL = re.compile(r"-?\d+\.\d+")


def same_text(one: str, other: str) -> bool:
    """Compare texts; decimal numbers, which differ a little between processors, within 0.03."""
    if _DECIMAL.sub("#", one) != _DECIMAL.sub("#", other):
        return False
    numbers = zip(_DECIMAL.findall(one), _DECIMAL.findall(other), strict=True)
    return all(float(a) == pytest.approx(float(b), abs=0.03) for a, b in numbers)


def with_ids_counted(text: str, seen: dict[str, int]) -> str:
    """Put 1, 2, ... in the place of ids, long or short, by first appearance: how many were used before is no matter.

    Times are all the same.
    """
    text = _TIME.sub("then", text)
    return _ID.sub(lambda match: f"id {seen.setdefault(match[1] or match[2], len(seen) + 1)}", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_shows_what_it_says(document: Path, tmp_path: Path):
    command = [sys.executable, "-W", "error", str(ROOT / "tests/docs/documents.py"), "--show", str(document)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    codes, expected = codes_and_outputs(document)
    shown = [Shown(**cell) for cell in json.loads(done.stdout)]
    assert len(shown) == len(expected)
    ids_now: dict[str, int] = {}
    ids_then: dict[str, int] = {}
    for code, now, then in zip(codes, shown, expected, strict=True):
        text, said = with_ids_counted(now.text, ids_now), with_ids_counted(then.text, ids_then)
        assert same_text(text, said), f"{code}\nshows now:\n{now.text}\nand in the document:\n{then.text}"
        if document.suffix == ".ipynb":
            assert with_ids_counted(now.svg, ids_now) == with_ids_counted(then.svg, ids_then), code
            assert len(now.plots) == len(then.plots), code
    for picture in tmp_path.glob("*.svg"):
        stored = (ROOT / "docs" / picture.name).read_text(encoding="utf-8")
        assert with_ids_counted(picture.read_text(encoding="utf-8"), {}) == with_ids_counted(stored, {})


def test_both_languages_of_the_tutorial_have_the_same_code():
    def code_only(name: str) -> list[str]:
        codes, _ = codes_and_outputs(ROOT / "docs" / name)
        return [re.sub(r"\s*#.*", "", code) for code in codes]

    assert code_only("tutorial.en.ipynb") == code_only("tutorial.es.ipynb")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_a_markdown_file_says_what_its_blocks_show(tmp_path: Path):
    document = tmp_path / "a.md"
    one, two = "One\n```python\nx = 2\nx + 1\n```\n", "Two\n\n```python\nprint(x)\n```\n\n```text\nwrong\n```\nEnd\n"
    document.write_text(one + two)
    codes, said = codes_and_outputs(document)
    assert (codes, [s.text for s in said]) == (["x = 2\nx + 1\n", "print(x)\n"], ["", "wrong\n"])
    shown = run(codes)
    assert [s.text for s in shown] == ["3\n", "2\n"]
    write(document, shown)
    assert [s.text for s in codes_and_outputs(document)[1]] == ["3\n", "2\n"]
    assert document.read_text().endswith("Two\n\n```python\nprint(x)\n```\n\n```text\n2\n```\nEnd\n")


def test_shell_blocks_run_and_toml_blocks_become_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "a.md"
    document.write_text(
        "```toml\n# a.toml\nx = 1\n```\n```toml\ny = 1\n```\n```sh\ncat a.toml; command -v python >&2\n```\n"
        "```sh\nmake test\n```\n```sh\necho 127.0.0.1:7101 127.0.0.1:17101 > p; cat p\n```\n"
        "```python\nimport pathlib\npathlib.Path('p').read_text().count('7101')  # of port 17101 only\n```\n"
    )
    codes, _ = codes_and_outputs(document)
    assert [code.split("\n", 1)[0] for code in codes[:3]] == ["%%toml", "%%sh", "%%sh"]
    python = Path(sys.executable).parent / "python"
    assert [s.text for s in run(codes)] == [
        "", f"# a.toml\nx = 1\n{python}\n", "127.0.0.1:7101 127.0.0.1:17101\n", "1\n",
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="it is wrong"):
        run(["%%sh\necho it is wrong; false; true\n"])


def test_a_notebook_keeps_what_its_cells_show(tmp_path: Path):
    document = tmp_path / "a.ipynb"
    source = "class P:\n    _repr_svg_ = lambda self: '<svg/>'\n    __repr__ = lambda self: 'p'\nprint(1)\nP()"
    cell = {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    document.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    shown = run([source])
    write(document, shown)
    assert codes_and_outputs(document)[1] == shown == [Shown(printed="1\n", value="p\n", svg="<svg/>")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a 0.91 b", "a 0.92 b", True), ("a 0.91", "a 0.97", False), ("a 1", "a 2", False), ("0.5 a", "0.5 b", False)],
)
def test_texts_are_compared_with_some_tolerance_for_decimals_only(one: str, other: str, same: bool):
    assert same_text(one, other) is same


def test_ids_are_compared_by_where_they_come_again():
    seen: dict[str, int] = {}
    text = with_ids_counted("me:4371257431375131705 -> bob:4371257431375131704, …31705 100 12345", seen)
    assert text == "me:id 1 -> bob:id 2, id 1 100 12345"
