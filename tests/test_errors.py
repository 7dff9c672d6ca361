"""What is asked of the errors themselves; those that raise and catch them are tested where they are."""

from __future__ import annotations

import pytest

from cifarkit.errors import Stopped, Terminated, is_impatient


def test_a_stop_is_no_exception() -> None:
    """Nothing that catches whatever goes wrong in a figure or a file may catch it."""
    assert not issubclass(Stopped, Exception)


def test_heeding_a_stop_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopped, "requested", Terminated("terminated"))

    def survive() -> None:
        try:
            raise ValueError("wrong dtype") from Stopped.requested
        except ValueError:
            Stopped.heed()

    with pytest.raises(Terminated) as caught:
        survive()
    assert not is_impatient(caught.value)
