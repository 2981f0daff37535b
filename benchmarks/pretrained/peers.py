"""Beside Torch-Pruning, long iterative pruning, and at 15 % of the MACs: same nets, photographs, head and tuning.

    python benchmarks/pretrained/peers.py torch-pruning-uniform lite0 96 0.7 --tar caltech101_160.tar --work WORK

Torch-Pruning 1.6.1 (pip install torch-pruning) cuts by group Taylor, scored under the same solved head on as many
photographs as ours, to the most channels that fit the MACs: every group by the same share, in multiples of eight as
ours or exact, or all by one threshold. Long ways cut in `ROUNDS`, the MACs falling geometrically, and share the steps
of tuning between the cuts. The head is solved again and batch norms are frozen, but where the tuning is bold: SGD as
`prune` tries it first, batch norms trained and measured again before and after. Ours is `front.py`'s model.

A cell is a file in results/peers with its machine, and which held-out photographs it knows, so that any two can be
compared; cells that are there are not run again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from front import CLASSES, RESULTS, TUNED, Candidate, made, pruned, right
from prepare import Photographs, backbone, kept, photographs
from torch import nn
from torch.nn import functional

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.pruning.config import Budget, Schedule
from mvp_deploy.pruning.head import recalibrate, solve_head
from mvp_deploy.pruning.iterative import LongWay, prune_iteratively
from mvp_deploy.pruning.original import Original, suited
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.structure import analyze
from mvp_deploy.tasks import Images
from mvp_deploy.training import fit

FOLDER = RESULTS / "peers"
ROUND_TO = 8
ROUNDS = 3
HALVINGS = 8  # of the interval in which Torch-Pruning's share of channels lies


@dataclass(frozen=True)
class Bench:
    """A net on the photographs, a budget, and the steps of tuning in all."""

    wanted: Candidate
    steps: int
    tar: Path
    work: Path
    start: Any
    state: Any
    train: Images
    test: Images

    @classmethod
    def of(cls, wanted: Candidate, steps: int, tar: Path, work: Path) -> Bench:
        start, state = backbone(wanted.net, wanted.size, work)
        parts = Photographs(photographs(tar, work), start, work).of(list(range(CLASSES)))
        return cls(wanted, steps, tar, work, start, state, *parts)

    def ours(self) -> dict[str, Any]:
        """What `front.py` makes of it, or of the unpruned net."""
        if self.steps == TUNED.steps:
            facts = made(self.wanted, self.tar, self.work)
            hits = np.load(self.work / f"{self.wanted.stem}.npz")
            return {"mmacs": facts["mmacs"], "way": facts.get("way")} | {key: knows(hits[key]) for key in hits}
        model, classifier, facts = pruned(self.wanted, self.start, self.state, self.train)
        facts["untuned"] = knows(right(model, self.test))
        self.tune(model, classifier, self.steps)
        return facts | {"tuned": knows(right(model, self.test))}

    def torch_pruning(
        self, *, one_threshold: bool = False, round_to: int | None = ROUND_TO, rounds: int = 1, bold: bool = False
    ) -> dict[str, Any]:
        original = Original.create(self.start, self.state, CLASSES)
        model, head = original.copy(), original.classifier
        stem = f"peers-{self.wanted.stem}-{self.steps}-{one_threshold}-{round_to}-{bold}"
        starts = [self.work / f"{stem}-{k + 1}-of-{rounds}.pt" for k in range(rounds)]
        begun = sum(file.exists() for file in starts)  # a killed call goes on with the last of them
        if not begun:
            solve_head(model, head, self.train)
        facts: dict[str, Any] = {}
        for k in range(max(begun - 1, 0), rounds):

            def smaller(model: nn.Module = model, left: float = self.wanted.macs ** ((k + 1) / rounds)) -> nn.Module:
                fewer = self.cut(model, head, left * original.cost().macs, one_threshold, round_to)
                self.settle(fewer, head, bold)
                return fewer

            model = kept(starts[k], smaller)
            if rounds == 1:
                facts = {"untuned": knows(right(model, self.test))}
            self.tune(model, head, self.steps // rounds, bold, starts[k].with_suffix(".checkpoint"))
        return facts | {"mmacs": self.macs(model) / 1e6, "tuned": knows(right(model, self.test))}

    def cut_once(self, macs: float) -> nn.Module:
        """Every group by the same share, in multiples of eight, to ``macs``; ready for bold tuning."""
        original = Original.create(self.start, self.state, CLASSES)
        model, head = original.copy(), original.classifier
        solve_head(model, head, self.train)
        fewer = self.cut(model, head, macs, False, ROUND_TO)
        self.settle(fewer, head, bold=True)
        return fewer

    def cut(
        self, model: nn.Module, head: Sequence[str], target: float, one_threshold: bool, round_to: int | None
    ) -> nn.Module:
        """The largest model within ``target`` MACs that Torch-Pruning makes of ``model``, cut once."""
        import torch_pruning as tp

        model.zero_grad()
        for x, y in self.train.sample(64, 8, seed=0):
            functional.cross_entropy(model.eval()(x), y).backward()

        def smaller(share: float) -> nn.Module:
            twin = copy.deepcopy(model)
            for parameter, theirs in zip(twin.parameters(), model.parameters(), strict=True):
                parameter.grad = None if theirs.grad is None else theirs.grad.clone()
            tp.pruner.BasePruner(
                twin,
                self.example(1),
                importance=tp.importance.GroupTaylorImportance(),
                global_pruning=one_threshold,
                pruning_ratio=share,
                round_to=round_to,
                ignored_layers=[twin.get_submodule(name) for name in head],
            ).step()
            twin.zero_grad()
            return twin

        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            low, high = (low, share) if self.macs(smaller(share)) <= target else (share, high)
        return smaller(high)

    def long_way(self) -> dict[str, Any]:
        """Ours as banks prune their tasks: Taylor, one threshold, no layer re-solved."""
        original = Original.create(*rotate(self.start, self.state, self.train), CLASSES)
        model = original.copy()
        solve_head(model, original.classifier, self.train)
        how = LongWay(
            Budget(self.wanted.macs, "macs", ROUND_TO), Schedule(ROUNDS, self.steps // ROUNDS, scope="global"), TUNED
        )
        done = prune_iteratively(original, model.state_dict(), self.train, self.test, how)
        solve_head(done.model, original.classifier, self.train)
        return {"mmacs": original.cost(done.plan).macs / 1e6, "tuned": knows(right(done.model, self.test))}

    def tune(
        self, model: nn.Module, head: Sequence[str], steps: int, bold: bool = False, checkpoint: Path | None = None
    ) -> None:
        config = replace(suited(self.start), batch_size=TUNED.batch_size, flip=TUNED.flip) if bold else TUNED
        fit(model, self.train, replace(config, steps=steps), checkpoint=checkpoint)
        self.settle(model, head, bold)

    def settle(self, model: nn.Module, head: Sequence[str], bold: bool) -> None:
        """The head in closed form; for bold training after batch norms have measured their statistics again."""
        if bold:
            recalibrate(model, self.train, seed=TUNED.seed)
        solve_head(model, head, self.train)

    def macs(self, model: nn.Module) -> int:
        return analyze(model, self.example(2)).cost().macs

    def example(self, images: int) -> torch.Tensor:
        return torch.zeros(images, *self.start.preprocessing.input_size)


ARMS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "ours": Bench.ours,
    "torch-pruning-uniform": Bench.torch_pruning,
    "torch-pruning-global": partial(Bench.torch_pruning, one_threshold=True),
    "torch-pruning-exact": partial(Bench.torch_pruning, round_to=None),
    "torch-pruning-bold": partial(Bench.torch_pruning, bold=True),
    "torch-pruning-exact-bold": partial(Bench.torch_pruning, round_to=None, bold=True),
    "torch-pruning-long": partial(Bench.torch_pruning, round_to=None, rounds=ROUNDS),
    "torch-pruning-long-bold": partial(Bench.torch_pruning, round_to=None, rounds=ROUNDS, bold=True),
    "long": Bench.long_way,
}


def knows(hits: np.ndarray) -> dict[str, Any]:
    """The accuracy, and for each held-out photograph a bit that says whether its class is found."""
    return {"accuracy": float(hits.mean()), "of": len(hits), "bits": np.packbits(hits).tobytes().hex()}


@click.command()
@click.argument("arm", type=click.Choice(list(ARMS)))
@click.argument("net")
@click.argument("size", type=int)
@click.argument("macs", type=float)
@click.option("--steps", default=TUNED.steps, show_default=True, help="Of tuning in all.")
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(arm: str, net: str, size: int, macs: float, steps: int, tar: Path, work: Path) -> None:
    file = FOLDER / f"{arm}-{net}-{size}-{macs:g}-{steps}.json"
    if file.exists():
        return
    FOLDER.mkdir(exist_ok=True)
    wanted = Candidate(net, size, macs)
    found = {"arm": arm, "steps": steps} | asdict(wanted) | ARMS[arm](Bench.of(wanted, steps, tar, work))
    if arm.startswith("torch-pruning"):
        found["torch-pruning"] = version("torch-pruning")
    write_text(file, json.dumps(found | {"environment": environment()}, indent=1) + "\n")
    told = {state: f"{found[state]['accuracy']:.1%}" for state in ("untuned", "tuned") if state in found}
    print(f"{arm}, {wanted}, {steps} steps: {found['mmacs']:.1f} MMACs, {told}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
