"""Whether an answer fits what was asked: its kind, and what its caller relies on of what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import MalformedMessage
from ..messages import ANSWERS, Answer, Ask, Asked, Collect, Get, Inquire, Ran, Request, Run, Value
from ..operators import BY_NAME
from ..wire import Reference


def check_answer(message: Request, answer: Answer, where: str) -> None:
    """Hold the answer of the worker ``where`` to what was asked. Raises MalformedMessage."""
    if type(answer) not in ANSWERS[type(message)] or not _fits(message, answer):
        asked, given = type(message).__name__, type(answer).__name__
        raise MalformedMessage(
            f"this {given} is no answer to a {asked}", where=where, mend="The worker does not keep to the protocol."
        )


def _fits(message: Request, answer: Answer) -> bool:
    match message, answer:
        case Run(), Ran():
            return _are_of(message, answer.outputs)
        case Get(), Value():
            return isinstance(answer.value, (torch.Tensor, Reference))
        case Collect(), Value():
            return isinstance(answer.value, torch.Tensor)
        case (Ask() | Inquire(), Asked()) if not isinstance(message, Inquire) or message.request:
            return len(answer.requests) == 1
    return True


def _are_of(message: Run, outputs: Sequence[Any]) -> bool:
    """Tell whether an operator gives so many tensors, and leaves out none but those that it may."""
    operator = BY_NAME[message.operator]
    if operator.gives_list or operator.gives_value:
        is_needed = [True] * len(message.results)
    else:
        is_needed = [source is not None or operator.plain for source in operator.returned]
    return len(outputs) == len(is_needed) and all(
        output is not None or not needed for output, needed in zip(outputs, is_needed, strict=True)
    )
