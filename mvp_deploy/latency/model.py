"""What a model of any widths takes: a sum over its kernels, fitted to a profile. NumPy alone.

Kernels are timed inside whole running models, so that caches, memory layouts and fusion are as they are when the model
is used. A kernel with r rows and c columns (a convolution's outputs and inputs) takes

    t(r, c) = a + b r' + d c' + e r' c' + f (r' c')^2,    a to f >= 0,    r' = r rounded up to a multiple of the step

for a start, writing, reading and multiplying; the square is for weights that fit into caches where a model is narrow
and come from memory where it is not. Runtimes compute in blocks, of 8 or 16 channels on most CPUs, so that a
width of 33 takes as long as 40: the step is the one that fits all kernels best. Fewer columns than one block are read
one by one (c' = c), as those of an image are: 8 take half as long as 16.

Off the multiples of another number, the alignment, some leave their fast kernels altogether (a convolution of 14
channels in ONNX Runtime takes twice the time of one of 16): such widths cost a factor more, and no plan chooses them.
Each grain has its own: a depthwise layer of 505 channels took 14 times as long there as one of 528, one of 516 no
longer. Their neighbours become slower too, because memory layouts are converted there: so kernels are fitted to the
variants that lie on the alignment.

The whole model takes an overhead and a scale of the kernels' sum, both fitted to the whole models' own times. The
overhead may be negative: tracing adds something to each kernel, which a model that is not traced does not pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from mvp_deploy.latency.format import Profile, Shape

STEPS = (1, 2, 4, 8, 16, 32)
ALIGNMENTS = (1, 2, 4, 8, 16)
AS_GOOD = 1.3  # a coarser step or a finer alignment is taken for the best one's error times this
FEW = 4  # shapes that a kernel is fitted to, at least
MOSTLY = 0.75  # of a model's layers are on the alignment, or it says nothing of kernels there
LEAST_FREE = 0.05  # 1 - leverage, at least: a fit that goes through a sample says nothing of its error


@dataclass(frozen=True, eq=False)
class Fit:
    """One kernel.

    coefficients: of 1, r', c', r'c' and (r'c')^2. full: its shape unpruned. off: the factor of shapes whose grain is
    each of `ALIGNMENTS`; 1 on the alignment.
    """

    coefficients: np.ndarray
    full: Shape
    off: tuple[float, ...]

    @cached_property
    def plain(self) -> tuple[float, ...]:
        """The coefficients as plain numbers: plans ask for single shapes by the hundred thousand."""
        return tuple(self.coefficients.tolist())

    def ms(self, shapes: np.ndarray, step: int) -> np.ndarray:
        """Milliseconds at shapes int [n, 2]."""
        found: np.ndarray = _features(shapes, step) @ self.coefficients * np.array(self.off)[_grain(shapes, self.full)]
        return found


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts milliseconds. weights: the layers' names, in order, and ``fits`` of their kernels."""

    weights: tuple[str, ...]
    fits: tuple[Fit, ...]
    step: int
    alignment: int
    overhead: float
    scale: float

    def layer(self, number: int, rows: int, columns: int) -> float:
        """The milliseconds that one layer adds to a model: on the alignment, never fewer for more rows or columns."""
        one = self.fits[number]
        start, per_row, per_column, per_product, per_square = one.plain
        r = -(-rows // self.step) * self.step
        c = columns if columns < self.step else -(-columns // self.step) * self.step
        ms = start + per_row * r + per_column * c + (per_product + per_square * r * c) * r * c
        aligned = all(
            size % self.alignment == 0 or size == full for size, full in zip((rows, columns), one.full, strict=True)
        )
        return self.scale * ms * (1.0 if aligned else one.off[_grain(np.array([[rows, columns]]), one.full)[0]])

    def total(self, shapes: Sequence[Shape]) -> float:
        """Milliseconds of a model whose layers have these shapes."""
        return self.overhead + sum(self.layer(number, *shape) for number, shape in enumerate(shapes))


def fit(profile: Profile, grid: tuple[int, int] | None = None) -> LatencyModel:
    """The model of a profile; the same every time. grid: step and alignment, where they are known."""
    kernels = []
    for kernel in profile.kernels:
        shapes = np.array([sample.shape for sample in kernel.samples])
        kernels.append((shapes, np.array([sample.ms for sample in kernel.samples])))
    on = {alignment: _on(profile, alignment) for alignment in ALIGNMENTS}
    step, alignment = grid or _grid(kernels, on)
    fitted = [_kernel(shapes, ms, on[alignment], step, alignment)[0] for shapes, ms in kernels]
    fits = tuple(fitted[layer.kernel] for layer in profile.layers)
    sums = np.array([
        sum(one.ms(np.array([shape]), step)[0] for one, shape in zip(fits, run.shapes, strict=True))
        for run in profile.runs
    ])  # fmt: skip
    measured = np.array([run.ms for run in profile.runs])
    overhead, scale = _whole(sums, measured, on[alignment])
    weights = tuple(layer.weight for layer in profile.layers)
    return LatencyModel(weights, fits, step, alignment, overhead, scale)


def held_out(profile: Profile) -> list[tuple[float, float]]:
    """Measured and predicted milliseconds of each variant but the unpruned one, by a fit to all the others.

    Of those that lie on the alignment, since plans keep to it. Step and alignment are the whole profile's: to look for
    them takes most of a fit's time. Variants at the ends of the widths, as a quarter of each group, are predicted
    beyond what was fitted.
    """
    whole = fit(profile)
    grid, on = (whole.step, whole.alignment), _on(profile, whole.alignment)
    numbers = [number for number in range(1, len(profile.runs)) if on[number]]
    return [(profile.runs[n].ms, fit(_without(profile, n), grid).total(profile.runs[n].shapes)) for n in numbers]


def _without(profile: Profile, number: int) -> Profile:
    """The profile of all variants but one: a kernel has a sample of each for every layer of its kind."""
    count = len(profile.runs)
    kernels = [
        replace(kernel, samples=tuple(s for n, s in enumerate(kernel.samples) if n % count != number))
        for kernel in profile.kernels
    ]
    runs = (*profile.runs[:number], *profile.runs[number + 1 :])
    return replace(profile, kernels=tuple(kernels), runs=runs)


def _grid(kernels: Sequence[tuple[np.ndarray, np.ndarray]], on: Mapping[int, np.ndarray]) -> tuple[int, int]:
    """The step and the alignment of widths: the finest alignment, then the coarsest step, that predict as well as any.

    By leave-one-out errors: a coarse alignment leaves few shapes, which are fitted well whatever is right. ``on`` says
    which variants lie on each alignment.
    """
    errors = {
        (step, alignment): sum(_kernel(shapes, ms, on[alignment], step, alignment)[1] for shapes, ms in kernels)
        for alignment in ALIGNMENTS
        for step in STEPS
    }
    limit = AS_GOOD * min(errors.values()) + 1e-12
    good = [grid for grid, error in errors.items() if error <= limit]
    alignment = min(alignment for _, alignment in good)
    return max(step for step, other in good if other == alignment), alignment


def _kernel(shapes: np.ndarray, ms: np.ndarray, on: np.ndarray, step: int, alignment: int) -> tuple[Fit, float]:
    """A kernel's fit to what lies on the alignment, and its mean squared relative error there, leave-one-out."""
    full: Shape = (int(shapes[0, 0]), int(shapes[0, 1]))
    aligned = _aligned(shapes, full, alignment)
    fitted = aligned & np.resize(on, len(ms))  # the variants of one layer follow those of another
    if fitted.sum() < FEW:
        fitted = np.ones(len(ms), bool)
    coefficients, error = _fitted(_features(shapes[fitted], step), ms[fitted])
    ratios = ms / np.maximum(_features(shapes, step) @ coefficients, 1e-9)
    return Fit(coefficients, full, _off(ratios, _grain(shapes, full), alignment)), error / fitted.sum()


def _off(ratios: np.ndarray, grains: np.ndarray, alignment: int) -> tuple[float, ...]:
    """For each of `ALIGNMENTS` the factor of its shapes: of one that was not seen, the next finer one's, or coarser."""
    finer = ALIGNMENTS.index(alignment)
    seen = [number for number in range(finer) if (grains == number).any()]
    factors = {number: max(1.0, float(np.median(ratios[grains == number]))) for number in seen}
    nearest = [max((n for n in seen if n <= number), default=min(seen, default=None)) for number in range(finer)]
    return (*(1.0 if n is None else factors[n] for n in nearest), *[1.0] * (len(ALIGNMENTS) - finer))


def _grain(shapes: np.ndarray, full: Shape) -> np.ndarray:
    """Where in `ALIGNMENTS` the largest is that shapes int [n, 2] lie on: int [n]."""
    grains: np.ndarray = np.sum([_aligned(shapes, full, alignment) for alignment in ALIGNMENTS], axis=0) - 1
    return grains


def _aligned(shapes: np.ndarray, full: Shape | Sequence[Shape], alignment: int) -> np.ndarray:
    """Which shapes lie on the alignment: an image's channels and a depthwise layer's one column, uncut, always do."""
    aligned: np.ndarray = ((shapes % alignment == 0) | (shapes == np.array(full))).all(1)
    return aligned


def _on(profile: Profile, alignment: int) -> np.ndarray:
    """Which of the variants lie on the alignment, with most of their layers: bool [runs]."""
    full = profile.runs[0].shapes
    return np.array([_aligned(np.array(run.shapes), full, alignment).mean() > MOSTLY for run in profile.runs])


def _features(shapes: np.ndarray, step: int) -> np.ndarray:
    """[1, r', c', r'c', (r'c')^2] of shapes int [n, 2]: float [n, 5]."""
    rows, columns = (-(-shapes // step) * step).astype(float).T
    columns = np.where(shapes[:, 1] < step, shapes[:, 1], columns)
    return np.stack([np.ones_like(rows), rows, columns, rows * columns, np.square(rows * columns)], 1)


def _fitted(features: np.ndarray, ms: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares of relative errors with no negative coefficient, and the sum of their leave-one-out squares.

    Few enough features to try every set of them: the best whose plain solution has no negative coefficient is the
    solution of the bounded problem. Each sample's error by a fit to the others takes no refit (PRESS; Allen, 1974).
    """
    weight = 1 / np.maximum(ms, max(ms.max() * 0.05, 1e-9))
    size = features.max(0)
    scaled, wanted = features / size * weight[:, None], ms * weight
    products, sides = scaled.T @ scaled, scaled.T @ wanted
    best, error = np.zeros(features.shape[1]), float(wanted @ wanted)
    missed_alone = wanted
    for number in range(1, features.shape[1] + 1):
        for chosen in map(list, combinations(range(features.shape[1]), number)):
            part = products[np.ix_(chosen, chosen)]
            if np.linalg.matrix_rank(part) < number:
                continue  # says no more than fewer features do
            found = np.linalg.solve(part, sides[chosen])
            missed = scaled[:, chosen] @ found - wanted
            if (found >= 0).all() and missed @ missed < error * (1 - 1e-9):
                best, error = np.zeros(features.shape[1]), float(missed @ missed)
                best[chosen] = found / size[chosen]
                leverage = np.einsum("ij,ji->i", scaled[:, chosen], np.linalg.solve(part, scaled[:, chosen].T))
                missed_alone = missed / np.maximum(1 - leverage, LEAST_FREE)
    return best, float(missed_alone @ missed_alone)


def _whole(sums: np.ndarray, measured: np.ndarray, on: np.ndarray) -> tuple[float, float]:
    """Overhead and scale that make the kernels' sums the whole models' times, by least squares of relative errors."""
    chosen = on if on.sum() >= 2 and np.ptp(sums[on]) > 0 else np.ones(len(sums), bool)
    sums, measured = sums[chosen], measured[chosen]
    features = np.stack([np.ones_like(sums), sums], 1) / measured[:, None]
    overhead, scale = np.linalg.lstsq(features, np.ones(len(sums)), rcond=None)[0]
    if scale <= 0:  # times that do not grow with what is computed: nothing but noise
        return 0.0, float(np.median(measured / np.maximum(sums, 1e-9)))
    return float(overhead), float(scale)
