"""Adding many tasks to a bank, one after the other here, or at once on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvp_deploy.bank.add import Costing, add_task
from mvp_deploy.bank.store import Bank, Entry
from mvp_deploy.base.cluster import Cluster, spread
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pruning.iterative import LongWay
from mvp_deploy.tasks import load_task
from mvp_deploy.tasks.load import require_source


@dataclass(frozen=True)
class Additions:
    """How tasks are to be added; travels to workers, who open the bank and choose the device themselves."""

    bank: Path
    how: LongWay
    device: str
    replace: bool
    skip_bad: bool
    name: str | None = None  # of the one task, where it is not called by its specification
    cost: Costing | None = None

    def add(self, spec: str, reporter: Reporter) -> Entry:
        """Add one task. Raises MvpError if that cannot be."""
        return add_task(
            Bank.open(self.bank),
            load_task(spec, skip_bad=self.skip_bad).named(self.name),
            self.how,
            device=resolve(self.device),
            replace=self.replace,
            cost=self.cost,
            reporter=reporter,
        )

    def add_all(
        self, specs: Sequence[str], cluster: Cluster | None, reporter: Reporter
    ) -> Iterator[tuple[str, Entry | MvpError]]:
        """Add all tasks; gives each one's entry, or why it was not added: no task's trouble is another's.

        Those whose data are not there come first: that is known before hours of work.
        """
        missing = {spec: error for spec in specs if (error := _missing(spec))}
        yield from missing.items()
        specs = [spec for spec in specs if spec not in missing]
        if cluster is not None:
            yield from spread(cluster, {spec: partial(self.add, spec) for spec in specs}, reporter)
            return
        for index, spec in enumerate(specs):
            reporter.say(f"task {index + 1} of {len(specs)}: {spec}")
            try:
                yield spec, self.add(spec, reporter)
            except MvpError as error:
                yield spec, error


def _missing(spec: str) -> MvpError | None:
    try:
        require_source(spec)
    except MvpError as error:
        return error
    return None
