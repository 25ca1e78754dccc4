"""Times one convolution with PyTorch, for the benchmark that takes turns with it.

Says "ready", then answers every line "WORK CHANNELS SIZE BATCH THREADS RUNS" (work: forward, fixed, gradients; the first two are the
same here) with the milliseconds of one of so many runs.
"""

import sys
import time

from keep_memory import keep_freed_memory

try:
    import torch
    from torch.nn import functional as F
except ImportError as error:
    print(f"python3 needs torch: {error}", flush=True)
    sys.exit(3)


def job(channels, size, batch):
    torch.manual_seed(0)
    images = torch.randn(batch, channels, size, size)
    weight, bias = torch.randn(channels, channels, 3, 3), torch.randn(channels)
    return images, weight, bias, torch.randn(batch, channels, size, size)


def run(work, images, weight, bias, cotangent):
    if work != "gradients":
        with torch.inference_mode():
            F.conv2d(images, weight, bias, padding=1)
    else:
        inputs = [tensor.requires_grad_() for tensor in (images, weight, bias)]
        torch.autograd.grad(F.conv2d(*inputs, padding=1), inputs, cotangent)


def main():
    keep_freed_memory()
    print("ready", flush=True)
    tensors = {}
    for line in sys.stdin:
        work, *numbers = line.split()
        channels, size, batch, threads, runs = map(int, numbers)
        torch.set_num_threads(threads)
        shape = (work, channels, size, batch)
        if shape not in tensors:
            tensors[shape] = job(channels, size, batch)
            run(work, *tensors[shape])
        begin = time.perf_counter()
        for _ in range(runs):
            run(work, *tensors[shape])
        print((time.perf_counter() - begin) * 1e3 / runs, flush=True)


main()
