"""Crossing between workers inside an autograd graph: the gradient goes back the way the value came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Carry = Callable[[torch.Tensor], torch.Tensor]


class Cross(torch.autograd.Function):
    """``there`` takes the value to another place, ``back`` takes its gradient home.

    The backward pass is itself a crossing, so that it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, there: Carry, back: Carry) -> torch.Tensor:
        ctx.there, ctx.back = there, back
        return there(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None]:
        return Cross.apply(gradients[0], ctx.back, ctx.there), None, None
