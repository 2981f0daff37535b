"""What came out, in three lines: accuracy, milliseconds and size of the model one had, and of the one that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mvp_deploy.benchmark.runner import runtime_of
from mvp_deploy.benchmark.statistics import Interval, paired_change, unpaired_change
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.exporters.protocol import size_of

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """before: the unpruned model in fp32; after: the pruned one in the precision that ships. Each is a file's record.

    change: of the accuracy on the held-out images, -1..1. times: medians in milliseconds at the smallest batch, before
    and after; None if they were not measured. sizes: in bytes.
    """

    before: ModelFile
    after: ModelFile
    images: int
    change: Interval
    batch: int | None
    times: tuple[Interval, Interval] | None
    sizes: tuple[int, int]

    @property
    def lines(self) -> tuple[str, str, str]:
        ships = f"{self.after.target} {self.after.precision}"
        had, has = (f"{100 * file.accuracy:.1f} %" for file in (self.before, self.after))
        kept = self.sizes[1] / self.sizes[0]
        return (
            f"accuracy  {had} before, {has} after ({self.change.points}; {self.images} held-out images)",
            f"latency   {self._told(ships)}",
            f"size      {self.sizes[0] / 1e6:.2f} MB before, {self.sizes[1] / 1e6:.2f} MB after ({kept:.0%})",
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def _told(self, ships: str) -> str:
        if self.times is None:
            return f"not measured; what ships is {ships}"
        before, after = self.times
        gain = before.over(after)
        return (
            f"{before.value:.2f} ms before (fp32), {after.value:.2f} ms after ({ships}), batch {self.batch}: "
            f"{gain.value:.2f} times as fast ({gain.low:.2f} to {gain.high:.2f})"
        )


def outcome(bundle: Bundle, measurements: Json | None) -> Outcome:
    """The outcome of a bundle with a pruned and an unpruned model.

    What ships is the fastest pruned file that was timed, else the smallest.
    """
    rows = [row for row in (measurements or {}).get("rows", ()) if row["timing"]]
    batch = min((row["batch"] for row in rows), default=None)

    def median(file: ModelFile) -> Interval | None:
        runtime = runtime_of(bundle.path / file.file)
        wanted = (file.model, file.precision, batch)
        found = [row for row in rows if (row["model"], row["precision"], row["batch"]) == wanted]
        return next((Interval(**row["timing"]["median"]) for row in found if row["runtime"].startswith(runtime)), None)

    def speed(file: ModelFile) -> tuple[float, int]:
        found = median(file)
        return (found.value if found else np.inf, size_of(bundle.path / file.file))

    after = min(_of(bundle.models, "pruned"), key=speed)
    whole = _of(bundle.models, "unpruned")
    before = next(
        (file for file in whole if (file.target, file.precision) == (after.target, "fp32")),
        next((file for file in whole if file.precision == "fp32"), whole[0]),
    )
    images = int(bundle.info["task"]["images"]["test"])
    had, has = median(before), median(after)
    return Outcome(
        before,
        after,
        images,
        _change(before, after, images),
        batch,
        (had, has) if had and has else None,
        (size_of(bundle.path / before.file), size_of(bundle.path / after.file)),
    )


def _of(models: Sequence[ModelFile], name: str) -> list[ModelFile]:
    return [file for file in models if file.model == name]


def _change(before: ModelFile, after: ModelFile, images: int) -> Interval:
    tested = before.tested, after.tested
    if tested == (images, images):  # the same images: only those that one of them gets wrong count
        right = [~np.isin(np.arange(images), file.wrong) for file in (before, after)]
        return paired_change(*right)
    return unpaired_change(before.accuracy, tested[0], after.accuracy, tested[1])
