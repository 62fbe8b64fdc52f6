from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_basisprune.data.decoding import convert_to_gray, decode_image, resize_image
from onnx_basisprune.errors import DataError

RED, GREEN = (200, 10, 20), (30, 180, 40)


def _two_colours() -> Image.Image:
    """4 wide, 2 high: left half red, right half green."""
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[:, :2], pixels[:, 2:] = RED, GREEN
    return Image.fromarray(pixels)


def _save(tmp_path: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_rgb_png_is_exact(tmp_path: Path) -> None:
    pixels = decode_image(_save(tmp_path, _two_colours()))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(_two_colours()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # What a camera stores: the scene turned by the inverse of what the tag asks for.
    upright = _two_colours()
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(_save(tmp_path, stored, exif=exif)), np.asarray(upright))


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = _two_colours().quantize(4)
    path = _save(tmp_path, image, transparency=bytes([0, 128, 255, 255]))
    assert np.array_equal(decode_image(path), np.asarray(_two_colours()))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_without_blending(tmp_path: Path, mode: str) -> None:
    opaque = _two_colours() if mode == "RGBA" else _two_colours().convert("L")
    image = opaque.convert(mode)
    image.putalpha(0)
    expected = np.asarray(opaque.convert("RGB"))
    assert np.array_equal(decode_image(_save(tmp_path, image)), expected)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    pixels = decode_image(_save(tmp_path, _two_colours().convert("CMYK"), "image.tif"))
    # RGB to CMYK and back without a profile loses at most a level to rounding.
    assert np.abs(pixels.astype(int) - np.asarray(_two_colours()).astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    wide = np.array([[0, 256, 257, 32896, 65535]], dtype=np.uint16)
    pixels = decode_image(_save(tmp_path, Image.fromarray(wide), name))
    assert pixels.shape == (1, 5, 3)
    assert pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_is_repeated(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert(mode)
    assert decode_image(_save(tmp_path, image)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_floating_point_image_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = _save(tmp_path, Image.fromarray(np.ones((2, 2), dtype=np.float32)), "depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif.*32 bits"):
        decode_image(path)


@pytest.mark.parametrize("kept", [10, 60, 0.5, 0.9])
def test_truncated_jpeg_is_an_error_that_names_the_file(tmp_path: Path, kept: float) -> None:
    rng = np.random.default_rng(0)
    path = _save(tmp_path, Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "cut.jpg")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(DataError, match=r"cut\.jpg.*replace or remove") as caught:
        decode_image(path)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for suffix in (".png", ".gif", ".bmp", ".tif", ".webp", ".jpg", ".tga", ".pcx", ".ppm"):
        path = _save(tmp_path, _two_colours().resize((24, 24)), f"damaged{suffix}")
        intact = path.read_bytes()
        for _ in range(25):
            damaged = np.frombuffer(intact, dtype=np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 6)] = rng.integers(0, 256, 6)
            path.write_bytes(damaged.tobytes())
            refused += _is_refused(path)
    # Some damage goes unseen by any decoder; some is found in every run.
    assert 0 < refused < 9 * 25


def _is_refused(path: Path) -> bool:
    try:
        pixels = decode_image(path)
    except DataError as error:
        return path.name in str(error) or pytest.fail(f"names no file: {error}")
    return pixels.shape[2] != 3


def test_text_under_an_image_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(DataError, match=r"notes\.png' isn't an image"):
        decode_image(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        decode_image(tmp_path / "gone.png")


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path, Image.new("RGB", (50, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"pixel limit"):
        decode_image(path)


def test_postscript_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "trick.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"isn't an image"):
        decode_image(path)


def test_gray_equals_pillows_luma() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(convert_to_gray(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_resize_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, 8, 8)
    assert small.shape == (8, 8, 3)
    # Without antialiasing every pixel would be 0 or 255.
    assert np.abs(small.astype(int) - 128).max() <= 16
