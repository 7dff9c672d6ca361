"""Writes what the readers of the official files read."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, ClassVar

import numpy as np


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes texts and bytes with the instructions of Python 2, whose pickles the CIFAR files are."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _save_text(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        short = len(raw) < 256
        self.write(b"U" + struct.pack("<B", len(raw)) if short else b"T" + struct.pack("<i", len(raw)))
        self.write(raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = _save_text


def python2_pickle(content: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    # NumPy 2 has moved what is named in the files.
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_batch(label_key: str, images: np.ndarray, labels: np.ndarray) -> bytes:
    """Images uint8 (N, 32, 32, 3) as a published batch."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [f"image_{i}.png" for i in range(len(images))]
    batch = {"data": np.ascontiguousarray(rows), label_key: labels.tolist(), "filenames": names}
    return python2_pickle(batch)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()
