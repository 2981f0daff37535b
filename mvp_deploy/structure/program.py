"""The smaller model as a recorded program, for modules whose forward cannot take the new sizes."""

from __future__ import annotations

import numpy as np
from torch import nn

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.analysis import record
from mvp_deploy.structure.axes import kept_size
from mvp_deploy.structure.blocks import removed
from mvp_deploy.structure.cut import cut_tensors
from mvp_deploy.structure.fakes import all_names
from mvp_deploy.structure.graph import TracedModel, assemble, erase, set_constants
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.rehearsal import rehearse
from mvp_deploy.structure.structure import Structure


def prune_program(structure: Structure, model: nn.Module, plan: KeepPlan, why: str) -> TracedModel:
    """A recorded program of `model`'s forward on smaller weights; `why` says what kept the module from running.

    Raises:
        MvpError: the forward cannot be recorded, or cannot run at the new sizes.
    """
    recorded, recorder, batch = record(model, structure.example, allow_inexact=structure.allow_inexact)
    plan = _translate(structure, recorded, plan)
    counts = {atom: int(mask.sum()) for atom, mask in recorded.masks(plan).items()}
    set_constants(recorder.graph, recorder.constants, lambda axis, n: kept_size(axis, counts | {batch: n}))
    erase(recorder.graph, removed(recorded, plan))
    gone = recorded.gone(plan.without)
    cut = dict(cut_tensors(model, recorded.tensor_masks(plan)))
    state = {name: cut[id(tensor)] for name, tensor in all_names(model) if name not in gone}
    not_saved = {
        f"{path}.{name}".strip(".") for path, m in model.named_modules() for name in m._non_persistent_buffers_set
    }
    try:
        program = assemble(recorder.graph, state | recorder.tensors, not_saved | recorder.tensors.keys())
    except SyntaxError as error:  # fx writes Python
        raise StructureError(f"the forward hands an object to {error.text}, which a program cannot hold.") from error
    program.why = why
    rehearse(structure, program, {}, lambda fake: None, None)
    return program.train(model.training)


def _translate(structure: Structure, other: Structure, plan: KeepPlan) -> KeepPlan:
    """`plan` in terms of the groups of another structure of the same tensors."""
    wanted = structure.tensor_masks(plan)
    masks = {group.name: other.unit_mask(group, wanted) for group in other.groups}
    translated = KeepPlan(masks, plan.without)
    other.check(translated)
    got = other.tensor_masks(translated)
    for name, dims in wanted.items():
        for mask, own in zip(dims, got.get(name, dims), strict=True):
            if not np.array_equal(mask, own):  # type: ignore[arg-type]  # None equals None
                raise StructureError(f"the units of {name} are tied otherwise than in the model.")
    return translated
