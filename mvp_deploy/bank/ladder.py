"""A bank's ladder: models at a few budgets, cut, re-solved and recovered once, for every task that comes later.

What a backbone can spare is much the same for similar tasks. So the bank's tasks decide together, from all their
images: units by their worth to a classifier of all the bank's classes, weights re-solved in closed form, then features
taught back by imitation. The last two need no labels, so any photographs may join. A new task takes the rung of its
budget and solves its head.

    BANK/ladder/macs-0.45.safetensors    one rung: keep plan, weights without a head, what it cost and gave
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from mvp_deploy.bank.add import versions
from mvp_deploy.bank.pool import divided, fingerprint, labelled
from mvp_deploy.bank.rung import FORM, FORMAT, Rung, path_of, rung_for, stem
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.unpruned import digest
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import locked, write_text
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.base.workspaces import remove_workspaces, workspaces
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.imitation import TUNING, feature_error, imitate
from mvp_deploy.pruning.mvp import cut, importances, in_rounds, re_solve
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.pruning.reconstruction import MANY
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig

RECIPE = replace(RECIPES["compensated"], rounds=3)  # docs/pretrained.md: 1.9 and 3.6 points above one round


def build(
    bank: Bank,
    images: Images,
    budgets: Sequence[Budget],
    config: TrainConfig = TUNING,
    *,
    reporter: Reporter,
) -> list[Rung]:
    """Make the ladder's models at these budgets; what is there of the same inputs stays.

    Killed and called again, it goes on where it stopped.

    Args:
        images: of the bank's tasks or similar ones, by class; those without a label are re-solved on and imitated.
            See `pool.pool`.
        config: of the imitation.

    Raises:
        MvpError: a budget cannot be met, or a smaller model is not exact; (ENVIRONMENT) another process is at it.
    """
    classes = int(images.labels.max()) + 1
    if classes < 2:
        raise InputError("A ladder needs labelled images of two classes at least, to know what units are worth.")
    original = Original.create(bank.backbone, bank.state(), classes, device=images.device, seed=config.seed)
    common = {
        "backbone": bank.backbone.fingerprint,
        "images": fingerprint(images),
        "training": asdict(config),
        "recipe": asdict(RECIPE),
        "versions": versions(),
    }
    busy = f"another process is building the ladder of {bank.folder}: wait for it."
    learned, left_out = divided(images, config.seed)
    known = labelled(learned)
    worth = cache(partial(_Worth.of, original, known, config.seed, reporter))
    made = []
    for budget in budgets:
        key = digest(common | {"budget": asdict(budget)})
        rung = rung_for(bank, budget)
        if rung is None or rung.key != key:
            with locked(bank.folder / ".work" / "ladder.lock", busy):
                rung = _Building(bank, original, known, learned, left_out, budget, config, key, reporter).made(worth)
        made.append(rung)
    return made


@dataclass(frozen=True, eq=False)
class _Worth:
    """What each unit is worth to the classifier of all classes, and the seconds it took to know."""

    scores: Scores
    seconds: float

    @classmethod
    def of(cls, original: Original, images: Images, seed: int, reporter: Reporter) -> _Worth:
        begun = time.perf_counter()
        scores = importances(original, images, seed=seed)(RECIPE.criterion)
        reporter.say(f"units scored on {len(images)} images of {int(images.labels.max()) + 1} classes")
        return cls(scores, time.perf_counter() - begun)


@dataclass(frozen=True, eq=False)
class _Building:
    """A rung in the making. learned: the images it is made by, known: the labelled ones; left_out: those that judge."""

    bank: Bank
    original: Original
    known: Images
    learned: Images
    left_out: Images
    budget: Budget
    config: TrainConfig
    key: str
    reporter: Reporter

    def made(self, worth: Callable[[], _Worth]) -> Rung:
        (work,) = workspaces(self.bank.folder / ".work" / f"ladder-{stem(self.budget)}", self.key)
        plan, model, errors, seconds = self._solved(work / "solved.safetensors", worth)
        seconds += self._imitated(work, plan, model, errors)
        cost = self.original.cost_of(model, plan)
        header = {
            "format": FORMAT,
            "key": self.key,
            "backbone": self.bank.backbone.fingerprint,
            "budget": asdict(self.budget),
            "plan": plan.to_json(),
            "params": cost.params,
            "macs": cost.macs,
            "errors": errors,
            "images": len(self.learned) + len(self.left_out),
            "seconds": seconds,
            "training": asdict(self.config),
            "versions": versions(),
        }
        file = path_of(self.bank, self.budget)
        body = {name: value for name, value in model.state_dict().items() if name not in self.original.head}
        tensorfile.save(file, header, {"weights": body}, FORM)
        remove_workspaces(work.parent)
        return Rung.read(file, self.bank)

    def _solved(self, file: Path, worth: Callable[[], _Worth]) -> tuple[KeepPlan, nn.Module, dict[str, float], float]:
        """Plan, model, errors and seconds after the cut and the re-solving; kept in ``file``."""
        if not file.exists():
            known, begun = worth(), time.perf_counter()
            header, model = self._cut(known.scores)
            header["seconds"] = known.seconds + time.perf_counter() - begun
            tensorfile.save(file, header, {"weights": model.state_dict()})
        header, sections = tensorfile.load(file)
        plan, errors = KeepPlan.from_json(header["plan"]), header["errors"]
        self._say(f"features off by {errors['cut']:.3f} when cut, {errors['re-solved']:.3f} re-solved")
        return plan, self.original.pruned(plan, sections["weights"]), errors, float(header["seconds"])

    def _cut(self, scores: Scores) -> tuple[dict[str, Any], nn.Module]:
        original = self.original
        recipe = RECIPE if self.budget.of != "units" else replace(RECIPE, rounds=1)
        decision = in_rounds(
            original, self.known, recipe, self.budget, lambda: scores, shown=self.learned, seed=self.config.seed
        )
        plan, model = decision.plan, cut(original, decision)
        check_exact(original, plan, model, self.learned)
        errors = {"cut": self._error(plan, model)}
        re_solve(model, original, self.learned, decision, recipe, most=MANY, seed=self.config.seed)
        errors["re-solved"] = self._error(plan, model)
        return {"plan": plan.to_json(), "errors": errors}, model

    def _imitated(self, work: Path, plan: KeepPlan, model: nn.Module, errors: dict[str, float]) -> float:
        """Teach the model the unpruned features, in place, and note its error; gives the seconds that took."""
        taken, seconds = 0, 0.0
        for config in self._trainings() if self.config.steps else ():
            spent = work / f"imitation-{config.lr:g}.json"  # of one that did not help, which a kill does not undo
            if spent.exists():
                steps, took = json.loads(spent.read_text(encoding="utf-8"))
                taken, seconds = taken + steps, seconds + took
                continue
            with self.reporter.progress(f"imitation at {self._name}") as step:
                done = imitate(
                    self.original,
                    plan,
                    model,
                    self.learned,
                    config,
                    left_out=self.left_out,
                    checkpoint=work / f"imitation-{config.lr:g}.checkpoint",
                    progress=step,
                )
            taken, seconds = taken + done.steps, seconds + done.seconds
            if done.kept:
                break  # else the state is still the re-solved one
            write_text(spent, json.dumps([done.steps, done.seconds]))
        errors["imitated"] = self._error(plan, model)
        self._say(f"features off by {errors['imitated']:.3f} after {taken} steps")
        if self.config.steps and errors["imitated"] >= errors["re-solved"]:
            self.reporter.warn(f"{self._name}: imitation did not help, so the re-solved weights stay: try more --steps")
        return seconds

    def _trainings(self) -> Iterator[TrainConfig]:
        """The one asked for, then more careful ones: a mild cut leaves little to learn (docs/pretrained.md)."""
        yield self.config
        short = max(1, self.config.steps // 4)
        for part in (4, 16):
            yield replace(self.config, lr=self.config.lr / part, steps=short)

    def _error(self, plan: KeepPlan, model: nn.Module) -> float:
        return feature_error(self.original, plan, model, self.left_out)

    @property
    def _name(self) -> str:
        return f"{self.budget.fraction:.0%} of the {self.budget.of}"

    def _say(self, sentence: str) -> None:
        self.reporter.say(f"{self._name}: {sentence}")
