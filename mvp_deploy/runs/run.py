"""One task pruned by Meta-Vote Pruning beside its unpruned model, with everything that was decided."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mvp_deploy.bank import balance
from mvp_deploy.bank.add import versions
from mvp_deploy.bank.ask import begin
from mvp_deploy.bank.new import NewTask
from mvp_deploy.bank.rung import rung_for
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.unpruned import digest, made_with, train_unpruned
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.base.workspaces import workspaces
from mvp_deploy.pruning import pruned as model_file
from mvp_deploy.pruning.budget import Budget, units_kept
from mvp_deploy.pruning.mvp import made_of
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.pruned import PrunedModel
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.tuning import tune_by
from mvp_deploy.pruning.yardstick import Yardstick, measurable
from mvp_deploy.runs import folder as folders
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Task
from mvp_deploy.training import TrainConfig, accuracy

if TYPE_CHECKING:
    from mvp_deploy.latency.meet import Meet

COLLAPSE = 0.10  # accuracy lost against unpruned from which advice is due


@dataclass(frozen=True)
class Run:
    """A finished run as read back: ``info`` is run.json."""

    folder: Path
    info: dict[str, Any]

    def pruned(self) -> PrunedModel:
        return self._model("pruned.safetensors")

    def unpruned(self) -> PrunedModel:
        return self._model("unpruned.safetensors")

    def _model(self, name: str) -> PrunedModel:
        model = model_file.load(self.folder / name)
        if not folders.is_of(self.folder / name, self.info["files"][name]):
            raise InputError(f"{self.folder} was replaced while it was read: try again.")
        return model


def load(folder: str | os.PathLike[str]) -> Run:
    """Open a finished RUN folder. Raises MvpError if there is none, or one that is not whole."""
    return Run(Path(folder), folders.read(Path(folder)))


@dataclass(frozen=True)
class Pruning:
    """How a task is pruned.

    Attributes:
        training: Of both models' fine-tuning; its seed is the run's.
        meet: Makes what allots units under a budget of time.
    """

    budget: Budget
    recipe: Recipe
    training: TrainConfig
    meet: Meet | None = None


def prune_task(
    task: Task, bank: Bank, out: str | os.PathLike[str], how: Pruning, *, device: torch.device, reporter: Reporter
) -> Run:
    """Make a RUN folder: unpruned model, neighbours, votes, keep plan, surgery, fine-tuning.

    A killed call goes on where it stopped when called again with the same arguments; the unpruned model is reused by
    every later call that would train it the same way. An older run in the folder stays whole until this one is.

    Raises:
        InputError: The folder holds something else than a run.
        Busy: Another process is writing it.
    """
    with folders.writing(Path(out)):
        return _prune_task(task, bank, Path(out), how, device, reporter)


def _prune_task(task: Task, bank: Bank, folder: Path, how: Pruning, device: torch.device, reporter: Reporter) -> Run:
    budget, recipe, config = how.budget, how.recipe, how.training
    found = balance.of(bank, recipe)
    recipe = recipe if found is None else replace(recipe, even=found.even)
    for note in task.notes:
        reporter.warn(note)
    common = {
        "data": task.fingerprint,
        "backbone": bank.origin,
        "training": asdict(config),
        "versions": versions(),  # another version may train otherwise
    }
    inputs = common | {"budget": asdict(budget), "recipe": asdict(recipe), "bank": _members(bank, budget)}
    if how.meet is not None:
        inputs |= {"time": how.meet.key}
    if made := folders.of_inputs(folder, digest(inputs)):
        reporter.say(f"{folder} was made of the same inputs before: it stays as it is")
        return Run(folder, folders.readdressed(folder, made, task.name, task.source))
    shared, work = workspaces(folder / folders.WORK, digest(common), digest(inputs))
    bank = bank.kept(shared / "backbone.safetensors")
    before = folder / "unpruned.safetensors"
    unpruned = before if made_with(before, digest(common), bank.backbone) else shared / "unpruned.safetensors"
    new = NewTask.of(task, bank, device, config.seed)
    original, train, test = new.original, new.train, new.test
    if original.trained:
        recipe = replace(recipe, head="trained")
    allocate = None if how.meet is None else how.meet(original)
    if found and not (recipe.ladder and rung_for(bank, budget)):
        reporter.say(found.sentence)
    begun = begin(work, new, recipe, budget, allocate=allocate, seed=config.seed, reporter=reporter)
    whole = train_unpruned(new, config, unpruned, inputs=common, reporter=reporter)
    model = original.pruned(begun.plan, begun.weights)
    cut = accuracy(model, test)
    reporter.say(f"pruned model: accuracy {cut:.1%} before fine-tuning")
    tuning = replace(config, distill=recipe.distill)
    own = begun.info["votes"]["initial_weights"] == "pretrained"
    with reporter.progress("pruned model") as step:
        done = tune_by(
            recipe,
            model,
            original.classifier,
            train,
            tuning,
            made_of=partial(made_of, original, begun.plan, recipe, seed=config.seed) if own else None,
            teacher=whole.model if recipe.distill else None,
            checkpoint=work / "pruned.checkpoint",
            progress=step,
        )
    final = accuracy(model, test) if done.kept else cut
    reporter.say(f"pruned model: accuracy {final:.1%} {done.told}")
    tuned: dict[str, Any] = asdict(done)
    doubts: list[str] = []
    if measurable(original):
        yardstick = Yardstick(original, train)
        doubts += yardstick.doubts
        tuned |= asdict(yardstick.measure(model, begun.plan))
        state = "tuned" if done.kept else "untuned"
        reporter.say(f"{state}: leave-one-out accuracy {tuned['loo_accuracy']:.1%}")
    error = begun.info["steps"]["exactness"]
    warnings = [*task.notes, *begun.info["warnings"], *_advice(whole.accuracy, cut, final, 1 / len(task.classes))]
    warnings += doubts
    if recipe.judged and config.steps and done.choice is None:
        warnings.append(f"the pruned model was left {done.told}")
    if original.structure.inexact:
        warnings.append(f"units were removed inexactly: the model differs from the silenced one by {error:.1e}")
    for sentence in warnings[len(task.notes) :]:
        reporter.warn(sentence)
    key = digest(inputs)
    full, small = original.cost(), original.cost_of(model, begun.plan)
    info = {
        "inputs": key,
        "task": task.name,
        "source": task.source,
        "data": task.fingerprint,
        "classes": list(task.classes),
        "images": {"train": len(train), "test": len(test)},
        "backbone": bank.backbone.to_json(),
        "preprocessing": bank.backbone.preprocessing.to_json(),
        "metrics": {
            "pruned": {
                "accuracy": final,
                "accuracy_before_tuning": cut,
                "units": units_kept(original.structure, begun.plan),
                "params": small.params,
                "macs": small.macs,
                "steps": done.steps,
                "seconds": begun.info["seconds"] + done.seconds,
                "exactness": error,
                "making": begun.info["steps"] | {"tuned": tuned},
            },
            "unpruned": {
                "accuracy": whole.accuracy,
                "units": 1.0,
                "params": full.params,
                "macs": full.macs,
                "steps": whole.done.steps,
                "making": {"tuned": asdict(whole.done)},
                "seconds": whole.done.seconds,
            },
        },
        "groups": _groups(original, begun.plan, begun.info["unanimity"]),
        "votes": begun.info["votes"],
        "recipe": asdict(recipe),
        "budget": asdict(budget),
        "training": asdict(tuning),
        "seed": config.seed,
        "warnings": warnings,
        "versions": versions(),
    }
    extra = {"inputs": key, "task": task.name, "accuracy": final}
    pruned = work / "pruned.safetensors"
    model_file.save(pruned, model.state_dict(), bank.backbone, begun.plan, task.classes, extra)
    models = {"unpruned.safetensors": unpruned, "pruned.safetensors": pruned}
    return Run(folder, folders.complete(folder, work, info, models))


def _groups(original: Original, plan: KeepPlan, unanimity: Mapping[str, float]) -> list[dict[str, Any]]:
    left = {group.name for group in original.structure.left(plan.without)}
    return [
        {
            "name": group.name,
            "kind": group.kind,
            "size": group.size,
            "kept": plan.kept(group.name) if group.name in left else 0,
            "unanimity": unanimity.get(group.name),
        }
        for group in original.structure.groups
    ]


def _advice(unpruned: float, cut: float, final: float, chance: float) -> list[str]:
    """What to do where accuracy collapsed; nothing if it did not."""
    if unpruned - final < COLLAPSE:
        return []
    start = "and was no better than chance right after the cut, " if cut < 1.5 * chance else ""
    return [
        f"The pruned model is {100 * (unpruned - final):.1f} points less accurate than the unpruned one, {start}so it "
        "was cut too deep or tuned too little: try more --steps, a larger --macs or --keep, or distillation from the "
        "unpruned model (--set distill=0.5). Where so little may stay, a smaller image unpruned may be better: "
        "`mvp-deploy frontier` compares."
    ]


def _members(bank: Bank, budget: Budget) -> str:
    """A key for the bank's content, so that a resumed run asks the same bank; damaged tasks are not asked."""
    tasks = {entry.name: tensorfile.identity(entry.path) for entry in bank.entries([])}
    rung = rung_for(bank, budget)
    return digest(tasks | ({} if rung is None else {rung.path.name: rung.key}))
