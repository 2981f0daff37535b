"""Asking the bank: from a task to its pruned model before fine-tuning, by the votes of its neighbours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from mvp_deploy.bank.nearest import Neighbours, neighbours
from mvp_deploy.bank.new import NewTask
from mvp_deploy.bank.rung import Rung, asked, rung_for, worth
from mvp_deploy.bank.rung import start as on_rung
from mvp_deploy.base import tensorfile
from mvp_deploy.base.formats import Amount, Share, Within
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.making import chosen, make
from mvp_deploy.pruning.mvp import Allocation, Decision, cut
from mvp_deploy.pruning.original import check_exact
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.yardstick import Yardstick, measurable
from mvp_deploy.structure import KeepPlan
from mvp_deploy.structure.plan import PackedMask


@dataclass(frozen=True)
class VoterRecord:
    """One neighbour as files tell of it."""

    task: str
    similarity: float
    weight: Annotated[float, Within(0, 1e9)]


@dataclass(frozen=True)
class Votes:
    """Who voted, as run.json and bundle.json have it."""

    voters: tuple[VoterRecord, ...]
    own: Share
    initial_weights: str
    measure: str = "similarity"  # what the voters' similarity is, and its unit; older files do not say


@dataclass(frozen=True)
class _Info:
    votes: Votes
    unanimity: dict[str, Share]
    warnings: tuple[str, ...]
    seconds: Amount
    steps: dict[str, Any]


@dataclass(frozen=True)
class _Header:
    """Of a pruned model before its fine-tuning."""

    plan: dict[str, PackedMask]
    info: _Info


@dataclass(frozen=True)
class Begun:
    """The pruned model before fine-tuning, and what run.json says of how it came about."""

    plan: KeepPlan
    weights: Mapping[str, Tensor]
    info: Mapping[str, Any]


def begin(
    work: Path,
    new: NewTask,
    recipe: Recipe,
    budget: Budget,
    *,
    allocate: Allocation | None = None,
    seed: int = 0,
    reporter: Reporter,
) -> Begun:
    """Ask, vote, cut and prepare; kept in ``work``, so that a resumed run fine-tunes the very same model.

    Args:
        allocate: allots the units under a budget of time.
    """
    file = work / "start.safetensors"
    if not file.exists():
        clock = time.perf_counter()
        rung = rung_for(new.bank, budget) if recipe.ladder else None
        found = neighbours(new, recipe, seed=seed) if rung is None else Neighbours((), False)  # a rung asks nobody
        if recipe.ladder and rung is None and found.voters and budget.of == "macs":
            reporter.say(
                f"the bank has no ladder model of {budget.fraction:.0%} of the MACs, so the task pays for its own: "
                f"`mvp-deploy bank build {new.bank.folder} {asked(budget)}` makes one for all later tasks"
            )
        if rung is None:
            made = make(
                new.original,
                new.train,
                found.voters,
                recipe,
                budget,
                too_distant=found.too_distant,
                allocate=allocate,
                memory=work,
                seed=seed,
                reporter=reporter,
            )
            decision, model = made.decision, made.model
            whole = cut(new.original, decision)
            steps = made.steps | {"exactness": check_exact(new.original, decision.plan, whole, new.train)}
            if decision.allotted:
                steps["latency"] = decision.allotted
        else:
            decision, model = _of_rung(rung), on_rung(new.original, rung, new.train)
            steps = {
                "exactness": check_exact(new.original, decision.plan, model, new.train),
                "ladder": rung.to_json(),
            }
            if measurable(new.original):
                steps["unpruned"] = asdict(Yardstick(new.original, new.train).unpruned)
        told = _told(decision, found, time.perf_counter() - clock) | {"steps": steps}
        tensorfile.save(file, {"plan": decision.plan.to_json(), "info": told}, {"weights": model.state_dict()})
    header, sections = tensorfile.load(file, form=tensorfile.Form(_Header))
    votes = header["info"]["votes"]
    if votes["initial_weights"] == "ladder":
        reporter.say("the bank's ladder has a model of this budget: only the head is solved for the task")
        if made_once := header["info"]["steps"].get("ladder"):
            reporter.say(worth(made_once))
    for voter in votes["voters"]:
        near = f"{votes.get('measure', 'similarity')}: {voter['similarity']:.3f}"
        reporter.say(f"voter {voter['task']}: {near}; weight {voter['weight']:.2f}")
    if ways := header["info"]["steps"].get("ways"):
        reporter.say(chosen(ways))
    for name in ("unpruned", "cut", "reconstruction"):
        step = header["info"]["steps"].get(name, {})
        if "loo_accuracy" in step:
            error = f", output error {step['output_error']:.2f}" if name != "unpruned" else ""
            reporter.say(f"{name}: leave-one-out accuracy {step['loo_accuracy']:.1%}{error}")
    return Begun(KeepPlan.from_json(header["plan"]), sections["weights"], header["info"])


def _of_rung(rung: Rung) -> Decision:
    """What the ladder decided: its plan and its weights, before there was a vote to ask for."""
    return Decision(rung.plan, (), (), {}, 0.0, "ladder")


def _told(decision: Decision, asked: Neighbours, seconds: float) -> dict[str, Any]:
    voters = [
        {"task": voter.name, "similarity": voter.similarity, "weight": weight}
        for voter, weight in zip(decision.voters, decision.weights, strict=True)
    ]
    return {
        "votes": {
            "voters": voters,
            "measure": asked.measure,
            "own": decision.own,
            "initial_weights": decision.initial,
        },
        "unanimity": dict(decision.unanimity),
        "warnings": [*decision.warnings, *(f"left out: {sentence}" for sentence in asked.damaged)],
        "seconds": seconds,
    }
