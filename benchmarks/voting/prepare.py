"""What the study's cells start from: pretrained backbones and banks, made once, kept in a work folder."""

from __future__ import annotations

from pathlib import Path

import torch
from nets import study_resnet, study_vit
from settings import SIZE, Setting

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.files import atomic_write
from mvp_deploy.cli._common import Console
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.original import suited
from mvp_deploy.tasks import prepare
from mvp_deploy.training import TrainConfig, accuracy, fit

NETS = {"resnet": study_resnet.__name__, "vit": study_vit.__name__}
PRETRAIN_STEPS = {"resnet": 2500, "vit": 2000}
STEPS = 60  # of fine-tuning, for every arm; and of the unpruned models
SCHEDULE = Schedule(rounds=5, steps=60)  # the long way: 300 steps after the unpruned model's 60


def training(backbone: Backbone, setting: Setting, *, steps: int = STEPS, seed: int = 0) -> TrainConfig:
    """The one fine-tuning of the study."""
    base = suited(backbone)
    return TrainConfig(
        steps=steps,
        batch_size=64,
        lr=base.lr,
        optimizer=base.optimizer,
        weight_decay=base.weight_decay,
        flip=setting.flip,
        seed=seed,
    )


def pretrained(setting: Setting, net: str, work: Path, device: torch.device) -> Path:
    """The weights of the setting's backbone, trained on the bank's side of the classes."""
    out = work / f"{setting.backbone_name}-{net}.safetensors"
    if out.exists():
        return out
    from safetensors.torch import save_file

    backbone, state = backbones.create(NETS[net], image_size=SIZE)
    model = backbones.build(backbone, state, len(setting.pretrain.classes))
    parts = (setting.pretrain.train, setting.pretrain.test)
    train, test = (prepare(part, backbone.preprocessing, device) for part in parts)
    base = suited(backbone)
    config = TrainConfig(
        steps=PRETRAIN_STEPS[net],
        batch_size=128,
        lr=base.lr,
        optimizer=base.optimizer,
        weight_decay=base.weight_decay,
        schedule="onecycle",
        label_smoothing=0.1,
        flip=setting.flip,
    )
    with Console().progress(f"pretrain {out.stem}") as step:
        fit(model.to(device), train, config, checkpoint=out.with_suffix(".checkpoint"), progress=step)
    print(f"{out.stem}: {accuracy(model, test):.1%} on {len(setting.pretrain.classes)} classes", flush=True)
    with atomic_write(out) as temporary:
        body = {key: value.cpu().contiguous() for key, value in model.state_dict().items() if key in state}
        save_file(body, temporary)
    return out


def bank(setting: Setting, net: str, keep: float, work: Path, device: torch.device) -> Bank:
    """The setting's bank, its tasks pruned the long way to ``keep`` of the units; made where it is not there yet."""
    folder = work / f"bank-{setting.bank_name}-{net}-{keep}"
    if (folder / "bank.json").exists():
        made = Bank.open(folder)
    else:
        weights = pretrained(setting, net, work, device)
        made = Bank.init(folder, *backbones.create(NETS[net], weights=weights, image_size=SIZE))
    for number, task in enumerate(setting.bank, 1):
        if made.path(task.name).exists():
            continue
        how = LongWay(Budget(keep, "units"), SCHEDULE, training(made.backbone, setting))
        entry = add_task(made, task, how, device=device, reporter=Console(quiet=True))
        print(f"{folder.name} {number}/{len(setting.bank)}: {entry.metrics['unpruned_accuracy']:.1%} -> "
              f"{entry.metrics['accuracy']:.1%}, {entry.cost['seconds']:.0f} s", flush=True)  # fmt: skip
    return made
