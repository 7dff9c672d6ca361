"""Readers of the published formats, which accept what those files hold and nothing else.

CIFAR files are pickles, and a pickle is a program. Theirs uses two dozen instructions and three names; a file
with any other is refused before it can do anything.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cifarkit.errors import DataError

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

CIFAR_SIDE = 32


def read_cifar(content: bytes, label_key: str, classes: int) -> Arrays:
    """One CIFAR batch. Format: https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        label_key: entry of the batch that holds the labels.
        classes: number of classes.

    Returns:
        uint8 images (N, 32, 32, 3) and int64 labels (N,).

    Raises:
        DataError: it holds anything else than images and labels.
    """
    try:
        batch = _Batch(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = batch[b"data"], batch[label_key.encode()]
        if not (isinstance(pixels, _Pixels) and isinstance(labels, list)):
            raise ValueError("no array of pixels with a list of labels")
        if pixels.array.shape != (len(labels), 3 * CIFAR_SIDE**2):
            raise ValueError(f"pixels of shape {pixels.array.shape} for {len(labels)} labels")
        if not all(type(label) is int and 0 <= label < classes for label in labels):
            raise ValueError(f"labels that are no numbers from 0 to {classes - 1}")
    except KeyError as error:
        raise DataError(f"not a CIFAR batch (instruction or entry {error})") from error
    except Exception as error:  # whatever odd instructions make the reader stumble over
        raise DataError(f"not a CIFAR batch ({str(error)[:80] or type(error).__name__})") from error
    images = pixels.array.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return images, np.array(labels, dtype=np.int64)


def read_idx(content: bytes) -> npt.NDArray[np.uint8]:
    """One IDX file of bytes, as MNIST's are.

    Format: a big-endian header of 4 bytes (two zeros, 8 for bytes, the number of dimensions) and 4 bytes per
    dimension, then the bytes. http://yann.lecun.com/exdb/mnist/

    Raises:
        DataError: another header, or one that does not fit the length.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 3:
        raise DataError("not an IDX file of bytes")
    begin = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4)]
    needed = begin + math.prod(shape)
    if len(content) < begin or len(content) != needed:
        raise DataError(f"an IDX header of shape {tuple(shape)} on {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=begin).reshape(shape)


class _Pixels:
    """Stands for an array in a batch: NumPy's own trusts what it is told, up to a crash."""

    def __init__(self, *arguments: object) -> None:
        self.array: npt.NDArray[np.uint8]

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, (int(count), int(width)), _Bytes(), False, bytes(raw)):
                self.array = np.frombuffer(raw, np.uint8).reshape(count, width)
            case _:
                raise pickle.UnpicklingError("an array of another kind")


class _Bytes:
    """Stands for the type of its numbers."""

    def __init__(self, code: object, *arguments: object) -> None:
        if code != b"u1":
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes have not."""


# The Python form of the reader, because its instructions are a table that one can shorten; the C form would
# take gigabytes where a file says so.
_Instructions: dict[int, Callable[..., None]] = pickle._Unpickler.dispatch  # type: ignore[attr-defined]


class _Batch(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Runs the instructions of Python 2's pickles of dicts, lists, numbers, texts and arrays of bytes."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code[0]: _Instructions[code[0]]
        for code in (
            pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE,
            pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINSTRING, pickle.SHORT_BINSTRING,
            pickle.EMPTY_DICT, pickle.SETITEMS, pickle.EMPTY_LIST, pickle.APPENDS,
            pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPUT, pickle.LONG_BINPUT,
        )
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _Pixels,
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _Bytes,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]
