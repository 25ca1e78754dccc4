"""Times single runs of whole networks with PyTorch, for the benchmark that takes turns with it.

Says "ready", then answers every line "NETWORK BATCH WORK THREADS" (work: step, inference, product) with milliseconds.
"""

import sys
import time

from keep_memory import keep_freed_memory

try:
    import timm
    import torch
    import torchvision
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    print(f"python3 needs torch, torchvision and timm: {error}", flush=True)
    sys.exit(3)


def conv_norm(channels_in, channels_out, stride):
    return [nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out)]


def plain():
    layers, before = [], 1
    for channels, stride in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += conv_norm(before, channels, stride) + [nn.ReLU()]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.body = nn.Sequential(*conv_norm(before, channels, stride), nn.ReLU(), *conv_norm(channels, channels, 1))
        self.skip = nn.Identity()
        if stride != 1 or before != channels:
            self.skip = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


def resnet20():
    layers, before = conv_norm(1, 16, 1) + [nn.ReLU()], 16
    for channels in (16, 32, 64):
        for index in range(3):
            layers.append(Block(before, channels, 2 if index == 0 and channels > 16 else 1))
            before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def resnet18_cifar():
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return network


def vit():
    return timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=192, depth=9, num_heads=12, mlp_ratio=2, num_classes=10
    )


NETWORKS = {
    "plain-bn": (plain, (1, 28, 28), 10),
    "resnet20": (resnet20, (1, 28, 28), 10),
    "resnet18-cifar": (resnet18_cifar, (3, 32, 32), 10),
    "vit-192-9-12": (vit, (3, 32, 32), 10),
    "resnet18": (torchvision.models.resnet18, (3, 224, 224), 1000),
    "mobilenet-v2": (torchvision.models.mobilenet_v2, (3, 224, 224), 1000),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, (3, 224, 224), 1000),
    "vit-tiny-patch16-224": (lambda: timm.create_model("vit_tiny_patch16_224"), (3, 224, 224), 1000),
}


class Job:
    def __init__(self, name, batch):
        make, shape, classes = NETWORKS[name]
        torch.manual_seed(0)
        self.network = make()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), 1e-3)
        self.images, self.labels = torch.randn(batch, *shape), torch.arange(batch) % classes
        self.cotangent = torch.randn(batch, classes)

    def run(self, work):
        self.network.train(work == "step")
        for parameter in self.network.parameters():
            parameter.requires_grad_(work == "step")
        begin = time.perf_counter()
        if work == "step":
            self.optimiser.zero_grad()
            F.cross_entropy(self.network(self.images), self.labels).backward()
            self.optimiser.step()
        elif work == "inference":
            with torch.inference_mode():
                self.network(self.images)
        else:
            images = self.images.clone().requires_grad_()
            torch.autograd.grad(self.network(images), images, self.cotangent)
        return (time.perf_counter() - begin) * 1e3


def main():
    keep_freed_memory()
    print("ready", flush=True)
    key, job = None, None
    for line in sys.stdin:
        name, batch, work, threads = line.split()
        torch.set_num_threads(int(threads))
        if key != (name, batch):
            key, job = (name, batch), Job(name, int(batch))
        print(job.run(work), flush=True)


main()
