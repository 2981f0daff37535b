"""Making the smaller model that a keep plan describes."""

from __future__ import annotations

from torch import nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import exactness
from mvp_deploy.structure.caches import caches_restored
from mvp_deploy.structure.collector import collector_paused
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.structure.module import prune_module
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.program import prune_program
from mvp_deploy.structure.structure import Structure


@collector_paused()
def prune(structure: Structure, model: nn.Module, plan: KeepPlan, *, check: bool = True) -> nn.Module:
    """A new, smaller model without the units that `plan` removes; `model` is untouched.

    It is the ordinary eager module, with the sizes its modules keep set, wherever their forward can run so; else a
    `TracedModel`. Either trains and saves, under the same parameter names. Nothing is cut before a run on fake
    tensors has shown that the smaller model's forward works and makes the calls of the full one.

    Args:
        structure: what `analyze` found in `model`.
        model: the full-size module.
        plan: which units of each group stay.
        check: compare the smaller model with the silenced one on seeded inputs (see `exactness`).

    Raises:
        MvpError: the plan is for another model, it cannot run smaller in either form (the module is named), or it
            would compute something else (PARITY).
    """
    structure.check(plan)
    try:
        return _prune(structure, model, plan, check)
    except MvpError as error:
        if not structure.taught:
            raise
        rules = " and ".join(f"{rule}, which {operator} was taught" for operator, rule in structure.taught.items())
        told = str(error).rstrip(".")
        raise type(error)(
            f"{told}. Check first the rule {rules}: it must unify dimensions that are the same, and freeze those that "
            "must stay whole."
        ) from error


def _prune(structure: Structure, model: nn.Module, plan: KeepPlan, check: bool) -> nn.Module:
    if isinstance(model, TracedModel):
        return _program(structure, model, plan, model.why, check)
    try:
        with caches_restored():
            small = prune_module(structure, model, plan)
        if check:
            exactness.check(structure, model, plan, small)
        return small
    except MvpError as eager:
        try:
            return _program(structure, model, plan, str(eager), check)
        except MvpError as traced:
            also = "" if str(traced) == str(eager) else f" And as a traced program: {traced}"
            raise type(traced)(f"{eager}{also}") from traced


def _program(structure: Structure, model: nn.Module, plan: KeepPlan, why: str, check: bool) -> nn.Module:
    with caches_restored():
        small = prune_program(structure, model, plan, why)
    if check:
        exactness.check(structure, model, plan, small)
    if not (check and exactness.takes_other_sizes(structure, model, plan, small)):
        small.fix_shapes(tuple(t.shape) for t in structure.example)
    return small
