"""Axes through shape operators: what the analysis says of the output must be what removal from the input gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mvp_deploy.structure.atoms import Atoms, product
from mvp_deploy.structure.axes import (
    Atom,
    Axis,
    Reason,
    atoms_in,
    axis_size,
    fixed,
    keep_mask,
    kept_size,
    reasons,
    unit_index,
)
from mvp_deploy.structure.trace import Trace, run_fake

SIZES = st.sampled_from([2, 3, 4, 6, 8, 12])


class Steps(nn.Module):
    """Applies shape operators to its parameters; the input is only there because a model has one."""

    def __init__(self, shapes: list[tuple[int, ...]], steps: list[tuple]) -> None:
        super().__init__()
        self.inputs = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        self.steps = steps

    def forward(self, _: Tensor) -> Tensor:
        return apply_steps(list(self.inputs), self.steps)


def apply_steps(tensors: list[Tensor], steps: list[tuple]) -> Tensor:
    x = tensors[0]
    for name, *args in steps:
        if name == "view":
            x = x.reshape(args[0])
        elif name == "permute":
            x = x.permute(args[0])
        elif name == "slice":
            dim, start, stop = args
            x = x.narrow(dim, start, stop - start)
        elif name == "chunks":
            dim, count, order = args
            parts = x.chunk(count, dim)
            x = torch.cat([parts[i] for i in order], dim)
        else:
            x = torch.cat([x, tensors[1].reshape(x.shape)], args[0])
    return x


@st.composite
def shape_programs(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[tuple]]:
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    shapes, steps = [shape], []
    for _ in range(draw(st.integers(1, 5))):
        dim = draw(st.integers(0, len(shape) - 1))
        kind = draw(st.sampled_from(["split", "merge", "permute", "slice", "chunks", "cat"]))
        size = shape[dim]
        divisors = [d for d in range(2, size) if size % d == 0]
        if kind == "split" and divisors:
            factor = draw(st.sampled_from(divisors))
            step = ("view", (*shape[:dim], factor, size // factor, *shape[dim + 1 :]))
        elif kind == "merge" and dim + 1 < len(shape):
            step = ("view", (*shape[:dim], size * shape[dim + 1], *shape[dim + 2 :]))
        elif kind == "permute":
            step = ("permute", tuple(draw(st.permutations(range(len(shape))))))
        elif kind == "slice" and size > 2:
            start = draw(st.integers(0, size - 2))
            step = ("slice", dim, start, draw(st.integers(start + 2, size)))
        elif kind == "chunks" and divisors:
            count = draw(st.sampled_from(divisors))
            step = ("chunks", dim, count, tuple(draw(st.permutations(range(count)))))
        elif kind == "cat" and len(shapes) == 1 and np.prod(shape) <= 256:
            shapes.append(shape)
            step = ("cat", dim)
        else:
            continue
        steps.append(step)
        shape = tuple(apply_steps([torch.zeros(s) for s in shapes], steps).shape)
    return shapes, steps


def outer(axes: list[Axis], masks: dict[Atom, np.ndarray]) -> Tensor:
    """Which elements of a tensor stay: those all of whose positions do."""
    keep = torch.ones(())
    for axis in axes:
        keep = keep.unsqueeze(-1) * torch.from_numpy(keep_mask(axis, masks)).float()
    return keep


@settings(max_examples=150, deadline=None)
@given(shape_programs(), st.integers(0, 2**32 - 1))
def test_removal_from_the_inputs_is_restriction_of_the_output(program: tuple, seed: int) -> None:
    shapes, steps = program
    trace = Trace()
    out = run_fake(Steps(shapes, steps), (torch.zeros(1),), trace)
    axes = [trace.initial[f"inputs.{i}"] for i in range(len(shapes))] + [trace.axes(out)]
    for _ in range(2):  # resolving may freeze
        axes = [[trace.atoms.resolve(axis) for axis in tensor] for tensor in axes]
    rng = np.random.default_rng(seed)
    atoms = {atom for tensor in axes for axis in tensor for atom in atoms_in(axis)}
    masks = {atom: rng.random(atom.size) < 0.6 for atom in atoms}
    expected = apply_steps([outer(tensor, masks) for tensor in axes[:-1]], steps)
    assert torch.equal(expected, outer(axes[-1], masks))


def test_a_fused_qkv_weight_gives_heads_and_head_sizes_tied_across_q_k_and_v() -> None:
    steps = [("view", (3, 4, 8, 5)), ("permute", (0, 3, 1, 2))]
    trace = Trace()
    out = run_fake(Steps([(96, 5)], steps), (torch.zeros(1),), trace)
    ((three, heads, size),) = trace.atoms.resolve(trace.initial["inputs.0"][0])
    assert (three.size, heads.size, size.size) == (3, 4, 8)
    assert trace.atoms.resolve(trace.axis(out, 2)) == ((heads,),)
    assert trace.atoms.resolve(trace.axis(out, 3)) == ((size,),)


def test_a_concatenation_tied_to_a_whole_takes_the_whole_apart() -> None:
    atoms = Atoms()
    a, b, whole = atoms.new(4), atoms.new(6), atoms.new(10)
    atoms.unify(whole, a + b, Reason("test"))
    assert atoms.resolve(whole) == a + b


def test_differently_cut_sums_meet_in_the_finest_cut() -> None:
    atoms = Atoms()
    a, b, c, d = atoms.new(4), atoms.new(6), atoms.new(7), atoms.new(3)
    atoms.unify(a + b, c + d, Reason("test"))
    assert [axis_size((segment,)) for segment in atoms.resolve(a + b)] == [4, 3, 3]
    assert atoms.resolve(a + b) == atoms.resolve(c + d)


def test_axes_of_different_sizes_freeze_each_other() -> None:
    atoms = Atoms()
    a, b = atoms.new(4), atoms.new(5)
    atoms.unify(a, b, Reason("odd"))
    assert atoms.resolve(a) == fixed(4)
    assert [str(each) for each in reasons(b)] == ["odd"]


def test_whatever_meets_a_frozen_axis_is_frozen_for_the_same_reason() -> None:
    atoms = Atoms()
    a, b, c = atoms.new(4), atoms.new(4), atoms.new(8)
    atoms.freeze(a, Reason("softmax in attn"))
    atoms.unify(b, a, Reason("add in block"))
    atoms.unify(c, product([fixed(2), b], atoms, Reason("")), Reason("view in block"))
    assert [str(each) for each in reasons(b)] == ["softmax in attn"]
    assert [str(each) for each in reasons(c)] == ["softmax in attn"]


def test_a_cut_inside_a_unit_of_a_product_freezes_it() -> None:
    atoms = Atoms()
    heads, size = atoms.new(4), atoms.new(8)
    atoms.cut(product([heads, size], atoms, Reason("")), 0, 12, Reason("slice"))
    assert atoms.resolve(heads) == fixed(4)
    assert atoms.resolve(size) == fixed(8)


@pytest.mark.parametrize("start", [0, 8, 24])
def test_a_cut_between_heads_splits_the_heads(start: int) -> None:
    atoms = Atoms()
    heads, size = atoms.new(4), atoms.new(8)
    part = atoms.cut(product([heads, size], atoms, Reason("")), start, start + 8, Reason("slice"))
    assert axis_size(part) == 8
    assert atoms.resolve(size) == size
    assert atoms.resolve(part) == size  # one head only: nothing of it can go but its positions


@given(st.lists(st.booleans(), min_size=4, max_size=4), st.lists(st.booleans(), min_size=3, max_size=3))
def test_masks_sizes_and_unit_numbers_of_an_axis_agree(heads: list[bool], dims: list[bool]) -> None:
    h, d = Atom(4), Atom(3)
    axis: Axis = ((2, h, d), (h,), (5,))
    masks = {h: np.array(heads), d: np.array(dims)}
    kept = keep_mask(axis, masks)
    assert kept.sum() == kept_size(axis, {h: sum(heads), d: sum(dims)})
    of_head, of_dim = unit_index(axis, h), unit_index(axis, d)
    stays = [
        (a < 0 or heads[a]) and (b < 0 or dims[b])  # a position stays when all its units do
        for a, b in zip(of_head, of_dim, strict=True)
    ]
    assert kept.tolist() == stays
