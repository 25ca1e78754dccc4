"""Writes scikit-learn's 1,797 handwritten digits as the four IDX files of MNIST, for studies of other data.

    python3 benches/peer/digits.py FOLDER
    cargo xtask bench compress --data idx:FOLDER

The 8 x 8 pictures are enlarged to 24 x 24 and framed to 28 x 28. The last 497 are the test set.
"""

import pathlib
import struct
import sys

try:
    import numpy as np
    from sklearn.datasets import load_digits
except ImportError as error:
    sys.exit(f"python3 needs scikit-learn: {error}")

TRAIN = 1300


def enlarged(picture):
    grid = (np.arange(24) + 0.5) / 3 - 0.5
    low = np.clip(np.floor(grid).astype(int), 0, 6)
    share = np.clip(grid - low, 0, 1)
    rows = picture[low] * (1 - share)[:, None] + picture[low + 1] * share[:, None]
    whole = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return np.pad(whole, 2)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = np.stack([enlarged(picture) for picture in digits.images])
    images = np.rint(images * 255 / 16).astype(np.uint8)
    for part, chosen in (("train", slice(TRAIN)), ("t10k", slice(TRAIN, None))):
        pictures, labels = images[chosen], digits.target[chosen].astype(np.uint8)
        head = struct.pack(">IIII", 0x803, *pictures.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


if __name__ == "__main__":
    main()
