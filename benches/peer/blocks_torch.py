"""Reverses the blocks of crates/fbp-inverse/examples/04-blocks.rs by Adam, with PyTorch, on the same weights and targets.

    cargo run -p fbp-inverse --example 04-blocks -- FOLDER
    python blocks_torch.py FOLDER

Prints the residual as a share of the first one and the time after 20 and 200 steps, of the better of two rates.
"""

import sys
import time
from pathlib import Path

import numpy
import torch
from torch.nn import functional as F

FOLDER = Path(sys.argv[1])
torch.set_num_threads(2)


def read(name, *shape):
    return torch.from_numpy(numpy.fromfile(FOLDER / f"{name}.f32", dtype="<f4").reshape(*shape))


CONVS = [read(f"weight{seed}", 64, 64, 3, 3) for seed in (1, 2)]
QKV, PROJ, FC1, FC2 = (
    read(f"weight{seed}", *shape) for seed, shape in ((3, (576, 192)), (4, (192, 192)), (5, (768, 192)), (6, (192, 768)))
)


def basic(x):
    return F.relu(x + F.conv2d(F.relu(F.conv2d(x, CONVS[0], padding=1)), CONVS[1], padding=1))


def vit(x):
    batch, tokens, width = x.shape
    qkv = F.linear(F.layer_norm(x, (width,), eps=1e-6), QKV)
    q, k, v = qkv.reshape(batch, tokens, 3, 3, width // 3).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
    x = x + F.linear(mixed, PROJ)
    return x + F.linear(F.gelu(F.linear(F.layer_norm(x, (width,), eps=1e-6), FC1)), FC2)


def adam(block, start, wanted, rate, steps, is_positive):
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=rate)
    begun = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        ((block(x) - wanted) ** 2).sum().backward()
        optimizer.step()
        if is_positive:
            with torch.no_grad():
                x.clamp_(min=0)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        return ((block(x) - wanted).norm() / (block(start) - wanted).norm()).item(), seconds


def main():
    for block, name, shape in ((basic, "bas", (8, 64, 8, 8)), (vit, "vit", (8, 65, 192))):
        for target in ("near", "far"):
            x, other = (read(f"{name}.{target}.{what}", *shape) for what in ("x", "other"))
            with torch.no_grad():
                wanted = block(other)
            for steps in (20, 200):
                runs = [adam(block, x, wanted, rate, steps, block is basic) for rate in (1e-2, 3e-2)]
                left, seconds = min(runs)
                print(f"{block.__name__} block, {target} target, {steps} steps: residual {left:.1e} in {seconds:.2f} s")


main()
