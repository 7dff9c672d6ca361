"""One image file of a folder: which are read, and what becomes of their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifarkit.data.folder import SUFFIXES, read_image
from cifarkit.errors import DataError


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(suffix, tmp_path):
    image = Image.new("L" if suffix == ".pgm" else "RGB", (8, 8), 200)
    image.save(tmp_path / f"image{suffix}")
    assert read_image(tmp_path / f"image{suffix}", 8).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png", 8)
    assert (pixels.shape, pixels.dtype, pixels.min()) == ((8, 8, 3), np.uint8, 255)


def test_resize_takes_the_central_square(tmp_path):
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = (10, 200, 90)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    # Scaled before it is cropped, so the outermost columns mix with what lies beside them.
    assert (read_image(tmp_path / "wide.png", 8)[:, 2:-2] == (10, 200, 90)).all()


def test_resize_averages_over_the_pixels_it_drops(tmp_path):
    lines = np.zeros((64, 64, 3), dtype=np.uint8)
    lines[:, ::2] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")
    assert abs(read_image(tmp_path / "lines.png", 8).astype(int) - 127).max() <= 6


def test_exif_rotation_is_applied(tmp_path):
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    picture[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(picture).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 8), picture[::-1])


@pytest.mark.parametrize("limit", [40, 10])  # Pillow warns above the limit, fails above twice the limit
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path, limit, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr("cifarkit.data.folder.MAX_PIXELS", limit - 1)
    with pytest.raises(DataError, match="pixels: refused"):
        read_image(tmp_path / "image.png", 8)


TRIES = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@TRIES
@given(
    suffix=st.sampled_from([".png", ".jpg", ".gif", ".bmp", ".webp", ".tif", ".ppm"]),
    at=st.floats(0, 1, exclude_max=True),
    put=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_any_bytes_are_an_image_or_refused(suffix, at, put, cut, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"fuzzed{suffix}"
    Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)).save(path)
    content = bytearray(path.read_bytes())
    place = int(at * len(content))
    content[place : place + len(put)] = put
    path.write_bytes(content[:place] if cut else content)
    try:
        image = read_image(path, 8)
    except DataError:
        return
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
