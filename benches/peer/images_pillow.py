"""Times Pillow on folders of image files, for the benchmark that takes turns with it.

Says "ready", then answers every line "THREADS FOLDER" with milliseconds. Every file is decoded, resized to a shorter side of 256
(bilinear) and cropped to the 224 x 224 in the middle; THREADS processes share the files, since Pillow's own threads share a lock.
"""

import pathlib
import sys
import time
from multiprocessing import Pool

try:
    from PIL import Image
except ImportError as error:
    print(f"python3 needs Pillow: {error}", flush=True)
    sys.exit(3)

SIDE, CROP = 256, 224


def prepare(path):
    image = Image.open(path).convert("RGB")
    width, height = image.size
    size = (SIDE, SIDE * height // width) if width <= height else (SIDE * width // height, SIDE)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - CROP) / 2), round((size[1] - CROP) / 2)
    return len(image.crop((left, top, left + CROP, top + CROP)).tobytes())


def main():
    pools = {threads: Pool(threads) for threads in (1, 2)}
    print("ready", flush=True)
    for line in sys.stdin:
        threads, folder = line.rstrip("\n").split(" ", 1)
        files = sorted(pathlib.Path(folder).iterdir())
        begin = time.perf_counter()
        sizes = pools[int(threads)].map(prepare, files, chunksize=max(1, len(files) // 8))
        spent = time.perf_counter() - begin
        assert all(size == 3 * CROP * CROP for size in sizes)
        print(spent * 1e3, flush=True)


if __name__ == "__main__":
    main()
