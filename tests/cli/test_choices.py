from __future__ import annotations

import pynvml
import pytest

from cifarkit.cli import choices


@pytest.mark.parametrize(("gpus", "here", "expected"), [
    (0, 2, "cpu"), (1, 0, "cuda"), (None, 2, "cuda"), (None, 0, "cpu"), (None, None, "cpu"),
])  # fmt: skip
def test_where_a_training_will_run_is_told_without_torch(
    monkeypatch: pytest.MonkeyPatch, gpus: int | None, here: int | None, expected: str
) -> None:
    def init() -> None:
        if here is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", init)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: here)
    assert choices._likely_device(gpus) == expected


@pytest.mark.parametrize(("visible", "expected"), [("", "cpu"), ("-1", "cpu"), ("0", "cuda")])
def test_hidden_gpus_are_not_counted_on(monkeypatch: pytest.MonkeyPatch, visible: str, expected: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    assert choices._likely_device(None) == expected
