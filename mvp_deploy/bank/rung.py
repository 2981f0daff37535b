"""One model of a bank's ladder, as its file keeps it, and a new task's model from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mvp_deploy.bank.store import Bank
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.formats import Amount, Count, Sha256, Share, Size
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan, gather
from mvp_deploy.structure.plan import PackedMask
from mvp_deploy.tasks import Images

FORMAT = 1
STEPS = {"cut": "when cut", "re-solved": "re-solved", "imitated": "after imitation"}


@dataclass(frozen=True)
class _Budget:
    fraction: Share
    of: Literal["units", "macs", "params"]
    round_to: Size


@dataclass(frozen=True)
class Header:
    """Of a rung's file."""

    format: int
    key: str
    backbone: Sha256
    budget: _Budget
    plan: dict[str, PackedMask]
    params: Count
    macs: Count
    errors: dict[str, Amount]
    images: Count
    seconds: Amount
    training: dict[str, Any]
    versions: dict[str, str]


FORM = tensorfile.Form(Header, FORMAT, cure="build it again")


@dataclass(frozen=True)
class Rung:
    """A model of the ladder.

    errors: how far its features are from the unpruned ones after each step ('cut', 're-solved', 'imitated'), the
    squared difference relative to their variance, on images left out of the last two. seconds: what making it took.
    """

    path: Path
    budget: Budget
    key: str
    plan: KeepPlan
    params: int
    macs: int
    errors: Mapping[str, float]
    images: int
    seconds: float

    @classmethod
    def read(cls, path: Path, bank: Bank) -> Rung:
        """Raises MvpError if the file is damaged, of another format, or of another backbone."""
        header = tensorfile.read_header(path, FORM)
        bank.require(header["backbone"], str(path))
        same = {name: header[name] for name in ("key", "params", "macs", "errors", "images", "seconds")}
        return cls(path=path, budget=Budget(**header["budget"]), plan=KeepPlan.from_json(header["plan"]), **same)

    def weights(self) -> dict[str, Tensor]:
        """The pruned model's weights, without a head."""
        return tensorfile.load(self.path, ["weights"])[1]["weights"]

    def to_json(self) -> dict[str, Any]:
        return {
            "budget": asdict(self.budget),
            "params": self.params,
            "macs": self.macs,
            "errors": dict(self.errors),
            "images": self.images,
            "seconds": self.seconds,
        }


def worth(rung: Mapping[str, Any]) -> str:
    """What a rung gives beside what it cost, in a sentence; ``rung`` as `Rung.to_json` has it."""
    off = ", ".join(f"{rung['errors'][step]:.3f} {told}" for step, told in STEPS.items() if step in rung["errors"])
    return f"it took {rung['seconds'] / 60:.0f} minutes on {rung['images']:,} images, once; features are off by {off}"


def rungs(bank: Bank, damaged: list[str]) -> Iterator[Rung]:
    """The ladder's models, largest first; a sentence on each that is damaged goes to ``damaged``."""
    for path in bank.rungs():
        try:
            yield Rung.read(path, bank)
        except MvpError as error:
            damaged.append(str(error))


def rung_for(bank: Bank, budget: Budget) -> Rung | None:
    """The ladder's model at exactly this budget."""
    path = path_of(bank, budget)
    rung = Rung.read(path, bank) if path.exists() else None
    return rung if rung is not None and rung.budget == budget else None


def start(original: Original, rung: Rung, train: Images) -> nn.Module:
    """The rung's model for a task: its weights, under a head solved in closed form on the task's images."""
    head = {name: value for name, value in original.model.state_dict().items() if name in original.head}
    model = original.pruned(rung.plan, {**rung.weights(), **gather(original.structure, head, rung.plan)})
    solve_head(model, original.classifier, train)
    return model


def path_of(bank: Bank, budget: Budget) -> Path:
    return bank.folder / "ladder" / f"{stem(budget)}.safetensors"


def stem(budget: Budget) -> str:
    """What names a rung's file: models of other multiples of units are others."""
    return f"{budget.of}-{budget.fraction:g}{multiples(budget, '-by-')}"


def asked(budget: Budget) -> str:
    """The options of `bank build` that make such a rung."""
    return f"--macs {budget.fraction:g}{multiples(budget, ' --round-to ')}"


def multiples(budget: Budget, told: str) -> str:
    """``told`` and what sizes are multiples of, where that is not as usual."""
    return "" if budget.round_to == Budget().round_to else f"{told}{budget.round_to}"
