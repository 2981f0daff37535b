"""A stored task's images, found again."""

from __future__ import annotations

from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks import Task, load_again


def images_of(entry: Entry, bank: Bank) -> Task:
    """The task as it was stored, its images loaded from where they were, or from beside the bank.

    Raises:
        MvpError: (INPUT) they are missing, or have changed since it was pruned.
    """
    seed = entry.details["training"]["seed"]
    task = load_again(entry.name, entry.data, seed, source=entry.details.get("source"), beside=bank.folder)
    if task is None:
        raise InputError(
            f"The images of {entry.name} are no longer those it was pruned on: add it again with --replace."
        )
    return task
