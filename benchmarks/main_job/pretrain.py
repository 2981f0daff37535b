"""Pretrain a timm backbone on some classes of a data set, where no pretrained weights can be had.

    python benchmarks/main_job/pretrain.py resnet18 DATA.npz WEIGHTS.safetensors --classes 0:40 --image-size 32

The head is left out of the file, so that it serves `mvp-deploy bank init --weights`.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

from mvp_deploy import backbones
from mvp_deploy.cli._common import Console
from mvp_deploy.pruning.original import suited
from mvp_deploy.tasks import load_task, prepare
from mvp_deploy.training import TrainConfig, accuracy, fit


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--classes", required=True, help="first:stop, by their place in the file.")
@click.option("--image-size", type=int, required=True)
@click.option("--steps", default=2000, show_default=True)
@click.option("--lr", type=float)
def main(name: str, data: Path, out: Path, classes: str, image_size: int, steps: int, lr: float | None) -> None:
    first, stop = map(int, classes.split(":"))
    names = np.load(data)["classes"][first:stop].tolist()
    task = load_task(f"{data}#{','.join(names)}")
    recipe, state = backbones.create(name, image_size=image_size)
    model = backbones.build(recipe, state, len(names))
    train, test = (prepare(part, recipe.preprocessing, torch.device("cpu")) for part in (task.train, task.test))
    base = suited(recipe)
    config = TrainConfig(
        optimizer=base.optimizer, weight_decay=base.weight_decay, lr=lr or base.lr, steps=steps, batch_size=128,
        schedule="onecycle", label_smoothing=0.1, flip=True,
    )  # fmt: skip
    with Console().progress(f"pretrain {name}") as step:
        fit(model, train, config, checkpoint=out.with_suffix(".checkpoint"), progress=step)
    print(f"held-out accuracy on {len(names)} classes: {accuracy(model, test):.1%}")
    save_file({key: value.contiguous() for key, value in model.state_dict().items() if key in state}, out)


if __name__ == "__main__":
    main()
