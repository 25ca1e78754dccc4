"""Writes the files of tests/data/torch with PyTorch: one small state dict in every form in which it is saved.

    pip install torch safetensors
    python torch_files.py

The network: conv 3x3 from 2 to 4 channels, batch normalisation, ReLU, flatten, linear from 64 to 3, on images of 2x6x6. Its numbers
are multiples of 1/64 that follow from their names and positions, so that every type of number holds them.
"""

import collections
import zlib
from pathlib import Path

import torch
from torch import nn
import safetensors.torch

OUT = Path(__file__).parent / "torch"


def network():
    stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    out = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net = nn.Sequential(collections.OrderedDict(stem=stem, out=out)).eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
                continue
            start = zlib.crc32(name.encode()) % 97
            values = (torch.arange(tensor.numel()) * 37 + start) % 97 - 48
            if name.endswith("running_var"):
                values = values.abs() + 1
            tensor.copy_(values.reshape(tensor.shape) / 64)
    return net


def main():
    OUT.mkdir(exist_ok=True)
    net = network()
    state = net.state_dict()
    torch.save(state, OUT / "zip.pth")
    torch.save(state, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    # With protocol 0, PyTorch writes files that it cannot load.
    torch.save(state, OUT / "protocol0.pth", pickle_protocol=0)
    torch.save(state, OUT / "legacy_protocol0.pth", pickle_protocol=0, _use_new_zipfile_serialization=False)
    torch.save(state, OUT / "protocol1.pth", pickle_protocol=1)
    torch.save(state, OUT / "legacy_protocol1.pth", pickle_protocol=1, _use_new_zipfile_serialization=False)
    torch.save(state, OUT / "protocol4.pth", pickle_protocol=4)
    torch.save(state, OUT / "legacy_protocol5.pth", pickle_protocol=5, _use_new_zipfile_serialization=False)
    torch.save(net, OUT / "module.pth")
    torch.save(net.to(memory_format=torch.channels_last).state_dict(), OUT / "channels_last.pth")
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    wrapped["optimizer"] = {"state": {0: {"exp_avg": torch.ones(4, 2, 3, 3)}}, "lr": 1e-3}
    torch.save(wrapped, OUT / "wrapped.pth")
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, OUT / "half.pth")
    torch.save({key: value.bfloat16() if value.is_floating_point() else value for key, value in state.items()}, OUT / "bfloat16.pth")
    torch.save({key: value.double() if value.is_floating_point() else value for key, value in state.items()}, OUT / "double.pth")
    plain = {key: value.contiguous() for key, value in state.items()}
    safetensors.torch.save_file(plain, OUT / "model.safetensors", metadata={"format": "pt"})
    images = ((torch.arange(2 * 72) * 29) % 101 - 50).reshape(2, 2, 6, 6) / 32
    logits = net(images)
    safetensors.torch.save_file({"images": images, "logits": logits.detach()}, OUT / "logits.safetensors")


main()
