"""Writes reference.safetensors: logits that PyTorch, torchvision and timm give for weights anybody can make again.

    pip install torch torchvision timm safetensors
    python reference.py                 # writes reference.safetensors beside this script
    python reference.py --files FOLDER  # writes the weights themselves in all forms, to try the program on

Whole weights are too large to keep. Every number is a function of the name of its tensor and of its position instead:

    seed    = FNV-1a (64 bits) of the name
    uniform = upper 24 bits of SplitMix64(seed + position · 0x9E3779B97F4A7C15) / 2^23 - 1      in [-1, 1)
    running_var                 1 + uniform / 2
    running_mean                uniform / 10
    weight, two or more axes    uniform · sqrt(6 / fan_in), halved in a vision transformer
    weight, one axis            1 + uniform / 4
    everything else             uniform / 10
    images                      2 · uniform, under the name "images"

in double precision, rounded to single precision at the end. The statistics of batch normalisation are thus far from 0 and 1.
"""

import argparse
from pathlib import Path

import numpy
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
GOLDEN = numpy.uint64(0x9E3779B97F4A7C15)


def uniform(name, count):
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * GOLDEN
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    return (z >> numpy.uint64(40)).astype(numpy.float64) / 2**23 - 1


def values(name, shape):
    u = uniform(name, int(numpy.prod(shape)))
    if name.endswith("running_var"):
        u = 1 + u / 2
    elif name.endswith("running_mean"):
        u = u / 10
    elif name.endswith("weight") and len(shape) > 1:
        gain = 1.5 if name.startswith(("blocks.", "patch_embed.")) else 6.0
        u = u * numpy.sqrt(gain / numpy.prod(shape[1:]))
    elif name.endswith("weight"):
        u = 1 + u / 4
    else:
        u = u / 10
    return torch.from_numpy(u.astype(numpy.float32).reshape(shape))


def fill(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(12345)
            else:
                tensor.copy_(values(name, tuple(tensor.shape)))
    return model.eval()


class TensorFlowStyle(nn.Module):
    """A network of nobody's, padded as TensorFlow pads: more below and on the right where the stride is 2."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(Conv2dSame(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU6())
        self.mix = nn.Sequential(
            Conv2dSame(8, 8, 5, stride=2, groups=8, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU6(),
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24, eps=1e-3))
        self.down = nn.Sequential(Conv2dSame(24, 32, (3, 5), stride=(1, 2)), nn.SiLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 7))

    def forward(self, x):
        x = self.down(self.mix(self.stem(x)))
        # 9x5 for images of 35x37; max-pooling 3x3 with stride 2, SAME: one more row and column on both sides here.
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "resnet18": (torchvision.models.resnet18, (3, 224, 224)),
    "resnet34": (torchvision.models.resnet34, (3, 224, 224)),
    "mobilenet-v2": (torchvision.models.mobilenet_v2, (3, 224, 224)),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, (3, 224, 224)),
    "vit-tiny-patch16-224": (lambda: timm.create_model("vit_tiny_patch16_224"), (3, 224, 224)),
    "tensorflow-style": (TensorFlowStyle, (3, 35, 37)),
}


def images(shape, count=1):
    u = 2 * uniform("images", count * int(numpy.prod(shape)))
    return torch.from_numpy(u.astype(numpy.float32).reshape((count, *shape)))


def logits():
    found = {}
    for name, (make, shape) in NETWORKS.items():
        model = fill(make())
        with torch.no_grad():
            found[name] = model(images(shape))[0]
            exact = model.double()(images(shape).double())[0]
        largest = exact.abs().max()
        error = (found[name] - exact).abs().max() / largest
        print(f"{name}: largest {largest:.4g}, spread {exact.std():.4g}, own rounding of PyTorch {error:.2g}")
    safetensors.torch.save_file(found, HERE / "reference.safetensors")


def files(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, shape) in NETWORKS.items():
        model = fill(make())
        torch.save(model.state_dict(), folder / f"{name}.zip.pth")
        torch.save(model.state_dict(), folder / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
        batch = images(shape, 4)
        with torch.no_grad():
            found = model(batch)
        safetensors.torch.save_file({"inputs": batch, "logits": found}, folder / f"{name}.inputs.safetensors")
        torch.save(model.to(memory_format=torch.channels_last).state_dict(), folder / f"{name}.channels-last.pth")


arguments = argparse.ArgumentParser()
arguments.add_argument("--files", type=Path)
given = arguments.parse_args()
files(given.files) if given.files else logits()
