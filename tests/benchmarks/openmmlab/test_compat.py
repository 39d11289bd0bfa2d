"""What is changed in mmengine before it is used."""

from types import SimpleNamespace

import pytest
import torch

from kdep_benchmarks.openmmlab import compat

pytestmark = pytest.mark.openmmlab


def test_a_line_of_mmengines_log_neither_resets_the_peak_of_memory_nor_starts_cuda(monkeypatch):
    compat.prepare()
    from mmengine.runner import LogProcessor

    asked, started = [], True
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: asked.append("peak") or 3 * 2**20 + 5)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: asked.append("reset"))
    runner = SimpleNamespace(model=SimpleNamespace())
    assert LogProcessor()._get_max_memory(runner) == 3 and asked == ["peak"]
    started = False
    assert LogProcessor()._get_max_memory(runner) == 0 and asked == ["peak"]
