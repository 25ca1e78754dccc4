"""Writes what tests/pillow.rs compares with: Pillow's own results (made with Pillow 13.0.0 and numpy).

resize.bin: for each of 2,000 cases the first 8 bytes of the SHA-256 of the resized and cropped pixels, channel after channel.
files/: small image files of many kinds, each with NAME.png beside it as NAME.expected.png: what Pillow decodes, upright.

Usage: python make.py (in this folder)
"""

import hashlib
import pathlib

import numpy as np
from PIL import Image, ImageOps

CASES = 2000


class Draw:
    """Numbers that tests/pillow.rs draws too."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def pixels(width, height, channels, seed, blocks):
    """Bytes that look like noise; with blocks every 8 x 8 pixels are equal, which JPEG of full quality keeps exactly."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    if blocks:
        y, x = y // 8, x // 8
    index = ((y * 131 + x) * 3 + c + seed).astype(np.uint32)
    mixed = index * np.uint32(2654435761)
    mixed ^= mixed >> np.uint32(15)
    mixed = mixed * np.uint32(2246822519)
    return (mixed >> np.uint32(24)).astype(np.uint8)


def case(number):
    draw = Draw(number)
    large = number % 50 == 49
    side = 500 if large else 97
    width, height = 1 + draw.below(side), 1 + draw.below(side)
    jpeg = number % 4 == 0
    channels = 1 if jpeg or draw.below(2) == 0 else 3
    new = [1 + draw.below(97), 1 + draw.below(97)]
    if number % 7 == 0:
        new[0] = width
    if number % 11 == 0:
        new[1] = height
    cubic = draw.below(2) == 1
    left, top = draw.below(new[0]), draw.below(new[1])
    wide, high = 1 + draw.below(new[0] - left), 1 + draw.below(new[1] - top)
    array = pixels(width, height, channels, number, jpeg)
    image = Image.fromarray(array[:, :, 0] if channels == 1 else array)
    image = image.resize(tuple(new), Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR)
    result = np.asarray(image.crop((left, top, left + wide, top + high)))
    planes = result if channels == 1 else np.moveaxis(result, 2, 0)
    return hashlib.sha256(np.ascontiguousarray(planes).tobytes()).digest()[:8]


def files(folder):
    folder.mkdir(exist_ok=True)
    y, x = np.mgrid[0:40, 0:51]
    smooth = np.stack([128 + 100 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), 40 + 3 * x + y], axis=2)
    smooth = np.clip(np.round(smooth), 0, 255).astype(np.uint8)
    rgb, grey = Image.fromarray(smooth), Image.fromarray(smooth[:, :, 0])
    alpha = Image.fromarray((x * 5).astype(np.uint8))
    exif = Image.Exif()

    def save(name, image, **options):
        image.save(folder / name, **options)
        found = ImageOps.exif_transpose(Image.open(folder / name))
        stem = name.replace(".", "-")
        found.convert("L" if found.mode in ("L", "1", "LA") else "RGB").save(folder / f"{stem}.expected.png")

    for orientation in range(1, 9):
        exif[274] = orientation
        save(f"turned{orientation}.jpg", rgb, quality=95, subsampling=0, exif=exif)
    exif[274] = 6
    save("turned6.png", rgb, exif=exif)
    save("grey.jpg", grey, quality=90)
    save("subsampled.jpg", rgb, quality=92, subsampling=2)
    save("halved.jpg", rgb, quality=92, subsampling=1)
    save("progressive.jpg", rgb, quality=92, progressive=True)
    save("rgb.png", rgb)
    save("grey.png", grey)
    save("bits.png", grey.convert("1"))
    save("palette.png", rgb.quantize(60))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    save("rgba.png", rgba)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    save("grey-alpha.png", grey_alpha)
    rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    wide = (smooth[:, :, 0].astype(np.uint16) << 8) + 77
    Image.fromarray(wide).save(folder / "grey16.png")
    Image.fromarray(smooth[:, :, 0]).save(folder / "grey16-png.expected.png")


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    (here / "resize.bin").write_bytes(b"".join(case(number) for number in range(CASES)))
    files(here / "files")
