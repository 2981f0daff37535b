"""How much stays, as the API's functions take it."""

from __future__ import annotations

from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning.budget import Budget


def budget_of(keep: float | None, macs: float | None, params: float | None, round_to: int) -> Budget:
    """The one budget asked for. Raises MvpError for none, several, or one that is no fraction."""
    asked = {of: part for of, part in (("units", keep), ("macs", macs), ("params", params)) if part is not None}
    if len(asked) != 1:
        raise InputError("Say how much stays by one of macs=, params= and keep=, a fraction above 0 and at most 1.")
    ((of, fraction),) = asked.items()
    return Budget(fraction, of, round_to)  # type: ignore[arg-type]
