"""BANK/balance.json: how much own importance counts beside what neighbours lend, as `bank evaluate` last fitted it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Count, Malformed, Sha256, Within, damaged, parse, read_json, sealed, unsealed
from mvp_deploy.pruning.recipes import Recipe

if TYPE_CHECKING:
    from mvp_deploy.bank.store import Bank

FORMAT = 1


@dataclass(frozen=True)
class Balance:
    """even: the training images at which both count the same (`Recipe.even`); tasks: left out in turn to find it."""

    format: int
    backbone: Sha256
    even: Annotated[float, Within(0.0, 1e9, above=True)]
    tasks: Count

    @property
    def sentence(self) -> str:
        images = f"{self.even:g} training images, as `bank evaluate` found on {self.tasks} tasks"
        return f"own and lent importance count the same at {images}"


def store(bank: Bank, even: float, tasks: int) -> Balance:
    """Keep what was found for the bank, in place of what was there."""
    found = Balance(FORMAT, bank.backbone.fingerprint, even, tasks)
    write_text(bank.folder / "balance.json", json.dumps(sealed(asdict(found)), indent=2) + "\n")
    return found


def read(bank: Bank) -> Balance | None:
    """What was found; None where nobody asked. Raises MvpError if the file is damaged or another bank's."""
    file = bank.folder / "balance.json"
    if not file.exists():
        return None
    cure = f"delete it, or call `mvp-deploy bank evaluate {bank.folder}` again"
    content = read_json(file, dict, cure=cure, versions=(FORMAT,))
    try:
        found = parse(Balance, unsealed(content))
    except Malformed as error:
        raise damaged(file, error, cure) from error
    bank.require(found.backbone, str(file))
    return found


def of(bank: Bank, recipe: Recipe) -> Balance | None:
    """What was found, where the recipe has lent importance among its ways and leaves it to the bank."""
    lends = recipe.votes == "lent" or (recipe.rivals and recipe.asks_neighbours)
    return read(bank) if lends and not recipe.even else None
