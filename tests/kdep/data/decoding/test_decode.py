import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

from kdep.data.decoding.decode import Encoded, Pixels, _simplejpeg, crop_decoded, decoding_scale


def photograph(size=(320, 240), seed=0):
    """Blobs of several sizes, as smooth and as detailed as a photograph."""
    draw = np.random.Generator(np.random.Philox(seed))
    layers = []
    for cells, weight in ((4, 0.6), (16, 0.25), (80, 0.15)):
        noise = draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layers.append(weight * np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), np.float64))
    return Image.fromarray(sum(layers).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} | options if kind == "JPEG" else options))
    return buffer.getvalue()


def by_pillow(data, box, size):
    """The slow way: decode all of it, resample the box."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize(
    ("box", "size", "scale"),
    [
        ((0, 0, 500, 375), (224, 224), 1),
        ((10, 10, 457, 458), (224, 224), 1),  # 447 wide: at a half 223.5
        ((10, 10, 458, 458), (224, 224), 2),
        ((0, 0, 500, 256), (64, 64), 4),
        ((0, 0, 500, 255), (64, 64), 2),
        ((0, 0, 5000, 5000), (64, 64), 8),
        ((0, 0, 512, 256), (256, 64), 2),  # width and height each by their own
    ],
)
def test_an_image_is_decoded_no_smaller_than_the_crop_needs(box, size, scale):
    assert decoding_scale(box, size) == scale


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_a_whole_jpeg_has_the_pixels_that_pillow_decodes(options):
    data = encoded(photograph(), **options)
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    assert np.array_equal(Encoded(data).whole().numpy(), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_crop_of_a_whole_image_is_within_one_level_of_pillows_inside_its_border(kind):
    data = encoded(photograph(), kind)
    box, size = (21, 13, 201, 173), (128, 128)
    difference = np.abs(Encoded(data).crop(box, size).numpy() - by_pillow(data, box, size))
    # Pillow's filter reaches over the box by 180 / 128 source pixels: into the two outermost output pixels.
    assert difference[:, 2:-2, 2:-2].max() <= 1 and 0 < difference.max() < 30


@pytest.mark.parametrize(
    ("side", "scale", "rounded"),
    [(90, 2, (22, 14, 222, 214)), (45, 4, (20, 12, 220, 212)), (22, 8, (24, 16, 224, 216))],
)
def test_a_crop_at_reduced_scale_shows_the_box_rounded_to_decoded_pixels(side, scale, rounded):
    data = encoded(photograph())
    box, size = (21, 13, 221, 213), (side, side)
    assert decoding_scale(box, size) == scale
    found, expected = Encoded(data).crop(box, size).numpy().astype(int), by_pillow(data, rounded, size)
    inside = np.s_[:, 2:-2, 2:-2]  # Pillow's filter reaches over the box
    assert np.abs(found - expected)[inside].mean() < 1.5
    # A box that is off by one pixel of the decoded image would differ more.
    shifted = by_pillow(data, (rounded[0] + scale, rounded[1], rounded[2] + scale, rounded[3]), size)
    assert np.abs(found - expected)[inside].mean() < 0.6 * np.abs(found - shifted)[inside].mean()


def test_a_reduced_decode_reads_the_last_columns_of_an_odd_size():
    data = encoded(photograph((323, 241)))
    found = Encoded(data).crop((123, 41, 323, 241), (90, 90)).numpy().astype(int)
    half = Image.open(io.BytesIO(data))
    half.draft(None, (161, 120))
    assert half.size == (162, 121)
    expected = half.resize((90, 90), Image.Resampling.BILINEAR, box=(62, 21, 162, 121))
    assert np.abs(found - np.asarray(expected).transpose(2, 0, 1))[:, 2:, 2:].max() <= 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_box_that_just_fills_the_crop_at_reduced_scale_is_not_enlarged(scale):
    pixels = torch.arange(3 * 60 * 60).reshape(3, 60, 60).to(torch.uint8)
    for left in range(scale):
        start = (2 * left + scale) // (2 * scale)  # half a pixel rounds up
        found = crop_decoded(pixels, scale, (left, 0, left + 32 * scale, 32 * scale), (32, 32))
        assert torch.equal(found, pixels[:, :32, start : start + 32])


def test_images_that_are_no_rgb_jpeg_are_converted_as_pillow_does():
    image = photograph((60, 50))
    files = [
        encoded(image.convert("L")),
        encoded(image.convert("CMYK")),
        encoded(image.convert("P"), "PNG"),
        encoded(image.convert("RGBA"), "PNG"),
        encoded(image, "WEBP", lossless=True),
        encoded(image, "GIF"),
    ]
    for data in files:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(Encoded(data).whole().numpy(), expected)


def test_a_grey_jpeg_is_decoded_at_reduced_scale_too():
    data = encoded(photograph().convert("L"))
    found = Encoded(data).crop((0, 0, 320, 240), (64, 64))
    assert found.shape == (3, 64, 64) and torch.equal(found[0], found[2])
    assert np.abs(found.numpy() - by_pillow(data, (0, 0, 320, 240), (64, 64))).mean() < 1.5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
@pytest.mark.parametrize("size", [(323, 241), (64, 40)])
def test_pixels_do_not_depend_on_the_decoder(monkeypatch, options, size):
    data = encoded(photograph(size), **options)
    crops = [((0, 0, *size), (60, 36)), ((0, 0, *size), (31, 19)), ((0, 0, *size), (8, 5))]
    calls = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: calls.append(k) or decode(*a, **k))
    with_it = [Encoded(data).crop(*crop) for crop in crops]
    assert len(calls) == 3
    monkeypatch.setattr("kdep.data.decoding.decode._rgb_jpeg_size", lambda data: None)
    for found, crop in zip(with_it, crops, strict=True):
        assert torch.equal(found, Encoded(data).crop(*crop))
    assert len(calls) == 3


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_simplejpeg_serves_odd_sizes_itself(scale):
    pixels = _simplejpeg(encoded(photograph((323, 241))), (323, 241), scale)
    assert pixels is not None and pixels.shape == (-(-241 // scale), -(-323 // scale), 3)


def test_only_the_header_is_read_before_a_crop_is_asked_for():
    data = encoded(photograph())[:700]
    assert Encoded(data).size == (320, 240)


def test_several_pictures_in_one_file_are_left_to_pillow():
    image = photograph()
    data = encoded(image, "MPO", save_all=True, append_images=[image])
    found = Encoded(data).crop((0, 0, 320, 240), (64, 64))  # not a JPEG to Pillow: decoded whole
    assert torch.equal(found, Pixels(Encoded(data).whole()).crop((0, 0, 320, 240), (64, 64)))


@pytest.mark.parametrize("side", [200, 32])
def test_a_cut_off_jpeg_is_unreadable_at_every_scale_in_pillows_words(side):
    data = encoded(photograph())
    with pytest.raises(OSError, match="truncated"):
        Encoded(data[: len(data) // 2]).crop((0, 0, 320, 240), (side, side))


def test_what_is_no_image_is_unreadable_in_words_that_do_not_change():
    messages = set()
    for _ in range(2):
        with pytest.raises(UnidentifiedImageError) as error:
            Encoded(b"no image")
        messages.add(str(error.value))
    assert len(messages) == 1 and "0x" not in messages.pop()


def test_resampling_to_the_same_size_changes_nothing():
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Pixels(pixels).crop((0, 0, 50, 40), (50, 40)), pixels)
    assert torch.equal(Pixels(pixels).crop((3, 5, 33, 25), (30, 20)), pixels[:, 5:25, 3:33])


def test_resampling_is_a_mean_over_what_a_pixel_covers():
    # Two source pixels per output pixel: a triangle of half-width 2 around 2i + 1 weighs 1, 3, 3, 1 eighths, and at
    # the border what is left of it, 3, 3, 1 sevenths.
    row = torch.tensor([0, 80, 160, 240, 80, 0, 240, 160], dtype=torch.uint8)
    found = Pixels(row.expand(3, 8, 8)).crop((0, 0, 8, 8), (4, 8))
    expected = [(0 * 3 + 80 * 3 + 160) / 7, (80 + 3 * 160 + 3 * 240 + 80) / 8, (240 + 3 * 80 + 0 + 240) / 8]
    expected.append((0 + 3 * 240 + 3 * 160) / 7)
    assert found[0, 4].tolist() == [round(value) for value in expected]
