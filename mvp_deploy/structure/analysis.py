"""From a model to its structure, by one run on fake tensors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure import blocks
from mvp_deploy.structure.axes import (
    Atom,
    Axis,
    Reason,
    atoms_in,
    axis_size,
    fixed,
    reasons,
)
from mvp_deploy.structure.blocks import Block, unique
from mvp_deploy.structure.caches import caches_restored
from mvp_deploy.structure.calls import PLAIN, leaves_in, tensors_in
from mvp_deploy.structure.collector import collector_paused
from mvp_deploy.structure.fakes import all_names, named_tensors
from mvp_deploy.structure.recorder import Recorder
from mvp_deploy.structure.sizes import Formula, Observation, Origin, attributes, measured
from mvp_deploy.structure.structure import Frozen, Member, Structure, UnitGroup
from mvp_deploy.structure.trace import RECORDED_BATCH, OverWhatStays, Trace, run_fake


@collector_paused()
@caches_restored()
def analyze(model: nn.Module, example: Tensor | tuple[Tensor, ...], *, allow_inexact: bool = False) -> Structure:
    """Find what can be removed from `model`, from one run on fake tensors shaped like `example`.

    The model is neither changed nor run on real data. `example` is its input, or a tuple of its inputs, batch first.

    Units that an operator mixes (a mean over channels, a convolution along them) stay whole. With `allow_inexact`
    they can be removed too; `Structure.inexact` then says where the smaller model computes something else.

    Raises:
        MvpError: the model cannot be run on such an input.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(each, Tensor) for each in inputs):
        found = ", ".join(type(each).__name__ for each in inputs) or "nothing"
        raise StructureError(f"The example is {found}: pass a tensor, or a tuple of one tensor for each input.")
    return _analyze(model, inputs, Trace(allow_inexact=allow_inexact))


def record(
    model: nn.Module, example: tuple[Tensor, ...], *, allow_inexact: bool = False
) -> tuple[Structure, Recorder, Atom]:
    """`analyze`, and besides the run's calls as a program for any batch size, which the atom stands for.

    Raises:
        MvpError: the model cannot be run on such an input, or treats inputs of a batch differently.
    """
    recorder = Recorder()
    trace = Trace(recorder=recorder, allow_inexact=allow_inexact)
    inputs = tuple(t.new_empty((RECORDED_BATCH, *t.shape[1:])) for t in example)
    structure = _analyze(model, inputs, trace)
    batch = trace.atoms.segment(trace.batch, Reason(""))
    if len(batch) > 1 or not isinstance(batch[0], Atom):
        why = next(reasons(trace.batch), Reason("it is taken apart"))
        raise StructureError(f"{type(model).__name__} cannot be recorded for any batch size: {why}.")
    recorder.constants = [replace(c, axis=trace.atoms.resolve(c.axis)) for c in recorder.constants]
    recorder.axes = {n: tuple(map(trace.atoms.resolve, trace.axes(v))) for n, v in recorder.values.items()}
    return structure, recorder, batch[0]


def _analyze(model: nn.Module, inputs: tuple[Tensor, ...], trace: Trace) -> Structure:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise StructureError(
                f"{path or type(model).__name__} is a TorchScript module, which cannot be cut. Use the nn.Module that "
                "it was scripted or traced from."
            )
        if type(module).__name__ == "OptimizedModule":
            raise StructureError(
                f"{path or type(model).__name__} was made by torch.compile, which hides its forward. Use the nn.Module "
                "that it was compiled from, and compile the smaller one."
            )
    try:
        outputs = run_fake(model, inputs, trace)
    except StructureError:
        raise
    except Exception as error:
        raise StructureError(
            f"{type(model).__name__} cannot be traced on an input of shape {tuple(inputs[0].shape)}: "
            f"{type(error).__name__} in {trace.module or 'the model'}: {str(error).rstrip('.')}.{_cure(error)}"
        ) from error
    results = list(tensors_in(outputs))
    strange = [type(leaf).__name__ for leaf in leaves_in(outputs) if not isinstance(leaf, (Tensor, *PLAIN))]
    if strange or not results:
        found = f"{type(outputs).__name__}, in which no tensor is found"
        raise StructureError(
            f"The forward of {type(model).__name__} returns {f'a {strange[0]}' if strange else found}. Let it return a "
            "tensor, or tuples, lists, dictionaries or dataclasses of tensors."
        )
    _freeze_outputs(trace, results)
    by_name = dict(trace.initial)
    for name in _unused(model, inputs, trace):
        for axis in by_name[name]:
            trace.atoms.freeze(axis, Reason("not used by the model's forward"))
    _freeze_quantities(trace)
    resolved = _settle(trace, by_name)
    first = {id(tensor): name for name, tensor in named_tensors(model)}
    for name, tensor in all_names(model):
        resolved.setdefault(name, resolved[first[id(tensor)]])  # the other names of shared tensors
    return _structure(trace, resolved, model, inputs)


def _blocks(trace: Trace, model: nn.Module) -> tuple[Block, ...]:
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    names = Counter(id(tensor) for _, tensor in all_names(model))
    shared = [name for name, tensor in named_tensors(model) if names[id(tensor)] > 1]
    return blocks.find(trace.flow, trace.calls, shapes, shared)


def _cure(error: Exception) -> str:
    """What may be wrong, as far as the error tells."""
    said = str(error)
    if "DataDependent" in type(error).__name__ or "data-dependent" in said:
        return " Its forward looks at the values of tensors, which this run has not: let it depend on shapes alone."
    if isinstance(error, TypeError) and "argument" in said:
        return " Pass a tuple of one example for each input of the forward."
    return (
        " Check the input size." if any(word in said for word in ("size", "shape", "channels", "reduction dim")) else ""
    )


def _freeze_outputs(trace: Trace, results: list[Tensor]) -> None:
    for axis in (axis for tensor in results for axis in trace.axes(tensor)):
        batch = set(atoms_in(trace.atoms.resolve(trace.batch)))
        for atom in set(atoms_in(trace.atoms.resolve(axis))) - batch:
            trace.atoms.freeze(((atom,),), Reason("output of the model"))


def _unused(model: nn.Module, inputs: tuple[Tensor, ...], trace: Trace) -> set[str]:
    """The parameters and buffers that the forward does not use, in training either.

    Auxiliary heads run in training alone: what they read must shrink with what the model gives them, so that a forward
    in training is traced as well where parameters were left over.
    """
    left = set(trace.names.values())
    if left.isdisjoint(name for name, _ in model.named_parameters()):
        return left
    training = Trace(atoms=trace.atoms, initial=trace.initial, allow_inexact=trace.allow_inexact)
    try:
        several = tuple(t.new_empty((max(2, len(t)), *t.shape[1:])) if t.ndim else t for t in inputs)
        _freeze_outputs(training, list(tensors_in(run_fake(model, several, training, training=True))))
    except Exception:
        return left  # it cannot be trained on such an input
    used = left - set(training.names.values())
    trace.used.extend(name for name in training.used if name in used)
    trace.observations.extend(training.observations)
    trace.uses.quantities.extend(training.uses.quantities)
    return left - used


def _freeze_quantities(trace: Trace) -> None:
    """Freeze the axes whose size is used as a quantity, such as a head size in an attention's scale."""
    for origin in trace.uses.quantities:
        for axis in measured(origin):
            trace.atoms.freeze(axis, Reason("its size is used as a quantity in the forward"))
    used = {attribute for origin in trace.uses.quantities for attribute in attributes(origin)}
    for seen in trace.observations:
        if attributes(seen.origin) and attributes(seen.origin) <= used:
            why = Reason("an attribute that holds its size is used as a quantity in the forward")
            trace.atoms.freeze(seen.axis, why)
    trace.observations.extend(Observation(attribute, fixed(attribute.value)) for attribute in used)


def _settle(trace: Trace, by_name: Mapping[str, list[Axis]]) -> dict[str, tuple[Axis, ...]]:
    """Resolve every axis until nothing more is frozen on the way."""
    everything = [a for axes in by_name.values() for a in axes]
    everything += [a for term in trace.macs for a in term.axes]
    everything += [a for o in trace.over_what_stays.values() for axes in o.inputs + o.outputs for a in axes]
    everything += [o.axis for o in trace.observations]
    everything += [c.axis for c in trace.recorder.constants] if trace.recorder else []
    while True:
        before = [trace.atoms.resolve(axis) for axis in everything]
        if before == [trace.atoms.resolve(axis) for axis in everything]:
            return {name: tuple(map(trace.atoms.resolve, axes)) for name, axes in by_name.items()}


def _structure(
    trace: Trace, axes: dict[str, tuple[Axis, ...]], model: nn.Module, inputs: tuple[Tensor, ...]
) -> Structure:
    resolve = trace.atoms.resolve
    parameters = tuple(name for name, _ in model.named_parameters())
    order = [name for name in trace.used if name in axes]
    members: dict[Atom, list[Member]] = defaultdict(list)
    inside: dict[Atom, str] = {}  # atoms that lie within every unit of a head or group
    for name in order:
        for dim, axis in enumerate(axes[name]):
            for segment in axis:
                atoms = [f for f in segment if isinstance(f, Atom)]
                for role in ("head", "group"):
                    if atoms and role in atoms[0].roles:
                        inside.update(dict.fromkeys(atoms[1:], f"{role}_dim"))
            for atom in dict.fromkeys(atoms_in(axis)):
                members[atom].append(Member(name, dim))
    trained = set(parameters)
    groups: list[UnitGroup] = []
    by_group: dict[str, Atom] = {}
    for atom, places in members.items():
        if not any(m.tensor in trained for m in places) or ((atom,),) == resolve(trace.batch):
            continue
        kind = _kind(atom, places, inside, axes)
        name = unique(_group_name(places, kind), by_group)
        groups.append(UnitGroup(name, kind, atom.size, tuple(places)))
        by_group[name] = atom
    return Structure(
        groups=tuple(groups),
        frozen=tuple(_frozen(trace, axes, parameters)),
        unknown=dict(trace.unknown),
        taught=dict(trace.taught),
        example=tuple(torch.empty(t.shape, dtype=t.dtype, device="meta") for t in inputs),
        axes=axes,
        over_what_stays={run: _resolved_norm(resolve, each) for run, each in trace.over_what_stays.items()},
        inexact=tuple(dict.fromkeys(str(why) for why, axis in trace.inexact if any(atoms_in(resolve(axis))))),
        allow_inexact=trace.allow_inexact,
        calls=tuple(trace.calls),
        observations=tuple(dict.fromkeys(_observations(trace))),
        _atoms=by_group,
        blocks=_blocks(trace, model),
        _macs=tuple(replace(t, axes=tuple(map(resolve, t.axes))) for t in trace.macs),
        _parameters=parameters,
    )


def _resolved_norm(resolve: Callable[[Axis], Axis], norm: OverWhatStays) -> OverWhatStays:
    inputs, outputs = (tuple(tuple(map(resolve, axes)) for axes in each) for each in (norm.inputs, norm.outputs))
    return OverWhatStays(tuple(map(resolve, norm.over)), inputs, outputs, norm.exact)


def _observations(trace: Trace) -> Iterator[Observation]:
    """What was seen of sizes; a number that measures an axis without units says nothing."""
    for seen in trace.observations + trace.uses.compared:
        axis = trace.atoms.resolve(seen.axis)
        if not isinstance(seen.origin, int) or any(atoms_in(axis)):
            yield replace(seen, origin=_resolved(trace, seen.origin), axis=axis)


def _resolved(trace: Trace, origin: Origin) -> Origin:
    if isinstance(origin, Formula):
        return Formula(origin.function, _resolved(trace, origin.left), _resolved(trace, origin.right))
    return trace.atoms.resolve(origin) if isinstance(origin, tuple) else origin


def _kind(atom: Atom, places: list[Member], inside: Mapping[Atom, str], axes: Mapping[str, tuple[Axis, ...]]) -> str:
    if atom in inside:
        return inside[atom]
    for role in ("head", "group"):
        if role in atom.roles and any(len(s) > 1 and s[0] is atom for m in places for s in axes[m.tensor][m.dim]):
            return role
    made = [m for m in places if m.dim == 0 and len(axes[m.tensor]) > 1]
    read = [m for m in places if m.dim == 1]
    flat = all(len(axes[m.tensor]) <= 2 for m in places)
    return "hidden" if flat and len(made) == 1 and len(read) == 1 else "channel"


def _group_name(places: list[Member], kind: str) -> str:
    """The module that makes the units: the first whose rows they are, else the first they lie in."""
    maker = next((m for m in places if m.dim == 0 and m.tensor.endswith("weight")), places[0])
    name = maker.tensor.removesuffix(".weight")
    return name if kind in ("channel", "hidden") else f"{name}:{kind}s"


def _frozen(trace: Trace, axes: Mapping[str, tuple[Axis, ...]], parameters: tuple[str, ...]) -> Iterator[Frozen]:
    for name in parameters:
        for dim, first in enumerate(trace.initial[name]):
            why = {str(each) for each in reasons(first) if each.part != "kernel"}
            if why:
                yield Frozen(Member(name, dim), axis_size(axes[name][dim]), tuple(sorted(why)))
