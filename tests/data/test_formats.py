"""The readers of published files on what those hold, and on everything else."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_formats import cifar_batch, idx, python2_pickle

from cifarkit.data.formats import read_cifar, read_idx
from cifarkit.errors import DataError

IMAGES = np.arange(4 * 32 * 32 * 3, dtype=np.uint64).astype(np.uint8).reshape(4, 32, 32, 3)
LABELS = np.array([3, 0, 9, 9])
BATCH = cifar_batch("labels", IMAGES, LABELS)
TRIES = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def modest() -> Iterator[None]:
    """Whatever a few kilobytes say, reading them takes no memory to speak of."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_batch_is_read_as_it_was_written() -> None:
    images, labels = read_cifar(BATCH, "labels", 10)
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS.tolist()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


def rows(count: int = 4, kind: str = "uint8", width: int = 3072) -> np.ndarray:
    return np.zeros((count, width), kind)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ({"data": rows(), "fine_labels": [0] * 4}, "labels"),
        ({"data": rows(), "labels": [0] * 3}, "for 3 labels"),
        ({"data": rows(), "labels": [0, 1, 2, 10]}, "0 to 9"),
        ({"data": rows(), "labels": [0, 1, 2, "3"]}, "0 to 9"),
        ({"data": rows(width=3071), "labels": [0] * 4}, "3071"),
        ({"data": rows(kind="int8"), "labels": [0] * 4}, "i1"),
        ({"data": np.asfortranarray(rows()), "labels": [0] * 4}, "another kind"),
        ({"data": rows()[0], "labels": [0]}, "another kind"),
        ({"data": "pixels", "labels": [0] * 4}, "no array"),
        (["data", "labels"], "indices"),
        ({"data": {1, 2}, "labels": []}, "names"),
    ],
)
def test_a_batch_of_anything_else_is_refused(batch: object, reason: str) -> None:
    with pytest.raises(DataError, match=f"not a CIFAR batch .*{reason}"):
        read_cifar(python2_pickle(batch), "labels", 10)


def test_a_program_in_a_batch_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (witness.mkdir.__func__, (witness,))

    attack = pickle.dumps({"data": Attack(), "labels": []}, protocol=2)
    pickle.loads(attack)
    witness.rmdir()  # so the attack works
    for protocol in range(6):
        for content in (Attack(), {"data": Attack(), "labels": []}):
            with pytest.raises(DataError, match="not a CIFAR batch"):
                read_cifar(pickle.dumps(content, protocol=protocol), "labels", 10)
    assert not witness.exists()


def reconstruct(*arguments: bytes) -> bytes:
    """A pickle that makes an array with these arguments."""
    return b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(" + b"".join(arguments) + b"tR."


BIG = b"K\xff" * 9
ABSURD = {
    "a huge array": reconstruct(b"cnumpy\nndarray\n", b"J\xff\xff\xff\x7f\x85", b"U\x01b"),
    "a huge list of sizes": reconstruct(b"cnumpy\nndarray\n", b"(" + BIG + b"t", b"U\x01b"),
    "another class": reconstruct(b"cnumpy\ndtype\n", b"K\x00\x85", b"U\x01b"),
    "a text of two gigabytes": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "a text of negative length": b"\x80\x02T\xff\xff\xff\xffabc.",
    "a place far away in memory": b"\x80\x02]r\xff\xff\xff\x7f.",
    "bytes of eight exabytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "nothing": b"",
    "no end": b"\x80\x02]",
}


@pytest.mark.parametrize("content", ABSURD.values(), ids=ABSURD.keys())
@pytest.mark.usefixtures("modest")
def test_absurd_sizes_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="not a CIFAR batch"):
        read_cifar(content, "labels", 10)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with some bytes changed, cut out or put in."""
    content = bytearray(whole)
    # Where a pickle's instructions are, not in its pixels.
    ends = st.one_of(st.integers(0, 160), st.integers(len(whole) - 160, len(whole) - 1))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(ends if len(whole) > 400 else st.integers(0, max(0, len(whole) - 1)))
        kind = draw(st.sampled_from(("change", "cut", "put")))
        if kind == "change" and at < len(content):
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 40))]
        else:
            content[at:at] = draw(st.binary(max_size=12))
    return bytes(content)


@TRIES
@given(content=st.one_of(st.binary(max_size=400), damaged(BATCH)))
def test_any_bytes_are_a_batch_or_refused(content: bytes) -> None:
    try:
        images, labels = read_cifar(content, "labels", 10)
    except DataError:
        return
    assert images.shape == (len(labels), 32, 32, 3)
    assert images.dtype == np.uint8
    assert ((labels >= 0) & (labels < 10)).all()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
def test_an_idx_file_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(read_idx(idx(array)), array)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\0\x08", b"\0\0\x08\x00", b"\0\0\x08\x04" + bytes(20), b"\0\0\x0d\x01\0\0\0\0",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x08\x01" + struct.pack(">I", 5) + b"1234",
        b"\0\0\x08\x01" + struct.pack(">I", 5) + b"123456",
        b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"123456",
        b"\0\0\x08\x02" + struct.pack(">II", 2**32 - 1, 0),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("modest")
def test_a_header_that_does_not_fit_is_refused(content: bytes) -> None:
    if content.startswith(b"\0\0\x08\x02"):  # four billion images without a pixel take no room
        assert read_idx(content).size == 0
        return
    with pytest.raises(DataError, match="IDX"):
        read_idx(content)


@TRIES
@given(content=st.one_of(st.binary(max_size=60), damaged(idx(np.ones((2, 3, 4), np.uint8)))))
def test_any_bytes_are_an_idx_file_or_refused(content: bytes) -> None:
    try:
        array = read_idx(content)
    except DataError:
        return
    assert array.dtype == np.uint8
    assert array.size == len(content) - 4 - 4 * array.ndim
