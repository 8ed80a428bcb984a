"""The table of bounds in the documents is that of the code, and the code's is whole."""

from __future__ import annotations

import pytest

from syft import limits
from syft.node.config import Limits

from .limits import DOCUMENT, bounds, text

pytestmark = pytest.mark.in_process


def test_the_table_is_in_step():
    assert DOCUMENT.read_text(encoding="utf-8") == text(), "run: python -m tests.docs.limits"


def test_every_bound_is_in_it_and_says_what_it_bounds():
    table = dict(bounds())
    assert set(table) == {name for name in vars(limits) if name.isupper()}
    assert all(table.values()), [name for name, what in table.items() if not what]


def test_what_an_owner_can_set_is_a_bound_of_the_table():
    assert {name.upper() for name in Limits.__struct_fields__} <= set(dict(bounds()))
