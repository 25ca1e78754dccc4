"""What the C library does with freed memory."""

import ctypes
import sys

# Of mallopt(3): the size from which a block is a mapping of its own, and how much free memory is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 30


def keep_freed_memory():
    """Makes glibc keep freed memory, as our tensors do.

    By its defaults a PyTorch process gives large blocks back to the system after every operation or keeps them, depending on what it
    freed before, and is up to twice as fast in the latter case. Libraries that refuse are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(M_MMAP_THRESHOLD, KEPT) or not mallopt(M_TRIM_THRESHOLD, KEPT):
        print("the C library does not keep large blocks: PyTorch may be slower than it could be", file=sys.stderr)
