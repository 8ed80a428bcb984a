"""What operators will give: here, that torch is warm before it is asked."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from syft import outline
from syft.operators import BY_NAME

pytestmark = pytest.mark.in_process


def test_ctrl_c_while_torch_is_warmed_ends_the_wait_and_not_the_warming(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on, warmed = [], threading.Event(), threading.Event()

    def warm() -> None:
        begun.append(threading.current_thread())
        assert goes_on.wait(20)
        warmed.set()

    monkeypatch.setattr(outline, "warm", warm)
    monkeypatch.setattr(outline._Warming, "done", None)
    for _ in range(2):
        outline.start_warming()
    x, add = torch.ones(3), BY_NAME["aten::add.Tensor"]
    main = threading.main_thread().ident
    assert main is not None
    for _ in range(2):
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            outline.infer(add, [x, x], {})
    assert not warmed.is_set()
    threading.Timer(0.1, goes_on.set).start()
    outputs = outline.infer(add, [x, x], {})
    assert warmed.is_set() and outputs is not None and outputs[0] is not None and outputs[0].is_meta
    assert len(begun) == 1 and begun[0] is not threading.main_thread()
