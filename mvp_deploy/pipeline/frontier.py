"""Which model to ship: backbones, image sizes and cuts, by accuracy and measured milliseconds.

While searching nothing is trained: each candidate gets a head in closed form, a pruned one besides re-solved layers
(`reconstruction`); in the end the few on the front may be tuned. Each is judged as the file that would be shipped, in
its precision and runtime: leave-one-out accuracy on training images decides, held-out images judge. Every unpruned
backbone at every size is a candidate, and first in line: a smaller backbone or image is what a user would take instead
of pruning. Each finished candidate is kept on disk, so that a killed search goes on, and one that is stopped has told
what it knows.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.base.files import locked, write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency.front import Candidate, Failure, Frontier
from mvp_deploy.latency.meet import CORRECTIONS
from mvp_deploy.pipeline.asked import Search
from mvp_deploy.pipeline.candidates import Place
from mvp_deploy.report.frontier import draw

FILE = "frontier.json"


@dataclass(frozen=True)
class Searched:
    """What a search for a time found."""

    found: Frontier
    milliseconds: float

    @property
    def best(self) -> Candidate:
        return self.found.winner(self.milliseconds)

    @property
    def verdict(self) -> str:
        """Raises LatencyError where nothing meets the time."""
        told = self.found.verdict(self.milliseconds)
        return told if not self.best.unpruned or "Do not prune" in told else f"{told} Do not prune: it is fast enough."


def search(
    asked: Search,
    out: Path,
    *,
    seconds: float = math.inf,
    reporter: Reporter,
) -> Frontier:
    """Try candidates until all are tried or the time is up; what ``out`` has of the same key stays.

    Args:
        asked: what to try.
        out: the folder for the models and frontier.json, .svg and .html.
        seconds: after which no new candidate is begun.
        reporter: receives messages and progress.

    Raises:
        MvpError: the folder holds another search, or no backbone can be made.
    """
    begin = time.monotonic()
    (out / "models").mkdir(parents=True, exist_ok=True)
    with locked(out / "frontier.lock", f"another process is searching in {out}: wait for it."):
        found = _resumed(out, asked)
        for failure in found.failed:
            reporter.warn(f"{failure.name}: left out, as before ({failure.why})")
        places = [Place(asked, source, size, out, reporter) for size in asked.sizes for source in asked.sources]

        def late() -> bool:
            return time.monotonic() - begin > seconds and bool(found.candidates)

        aimed = (None,) * (1 + CORRECTIONS if asked.milliseconds else 0)  # first: that time is asked for
        cuts = (1.0,) if asked.shares is None else (1.0, *aimed, *asked.shares)
        wanted = [(place, cut, kind) for cut in cuts for place in places for kind in asked.precisions]
        with reporter.progress("candidates") as step:
            for number, (place, cut, precision) in enumerate(wanted):
                step(number, len(wanted))
                share = place.aimed(found, precision) if cut is None else cut
                if share is None or place.known(found, share, precision):
                    continue
                if cut is not None and place.hopeless(found, share, precision):
                    continue
                if late():
                    break
                try:
                    made = place.candidate(share, precision, found)
                except MvpError as error:
                    failure = Failure(place.source.name, place.size, share, precision, str(error)[:10_000])
                    reporter.warn(f"{failure.name}: left out ({failure.why})")
                    if not isinstance(error, EnvironmentMissing):  # which may be there in the next call
                        found = _kept(out, replace(found, failed=(*found.failed, failure)), None, reporter)
                    continue
                found = _kept(out, found, made if cut else replace(made, aim=asked.milliseconds), reporter)
                draw(found, asked.milliseconds, out)
        steps = asked.training.steps
        by_name = {(place.source.name, place.size): place for place in places}
        for twin in found.to_tune(asked.milliseconds) if steps else ():
            if twin.model[:2] not in by_name or twin.tried == steps:
                continue
            if late():
                break
            tuned = None
            reporter.say(f"{twin.name}: tuning")
            try:
                tuned = by_name[twin.model[:2]].tuned(twin, found)
            except MvpError as error:
                reporter.warn(f"{twin.name}: not tuned ({error})")
            else:
                if tuned is None:
                    reporter.say(f"{twin.name}: tuning did not help on images set aside")
            done = replace(twin, tried=steps)
            found = replace(found, candidates=tuple(done if each is twin else each for each in found.candidates))
            found = _kept(out, found, tuned, reporter)
            draw(found, asked.milliseconds, out)
    if not found.candidates:
        raise InputError("no candidate could be made: the warnings say why.")
    draw(found, asked.milliseconds, out)  # of another time, perhaps, than when the last candidate was made
    return found


def _kept(out: Path, found: Frontier, made: Candidate | None, reporter: Reporter) -> Frontier:
    """What was found with one more candidate, written down."""
    if made is not None:
        found = replace(found, candidates=(*found.candidates, made))
        reporter.say(f"{made.name}: {made.ms:.3f} ms, {made.accuracy:.1%}")
    write_text(out / FILE, json.dumps(asdict(found), indent=1) + "\n")
    return found


def _resumed(out: Path, asked: Search) -> Frontier:
    if not (out / FILE).exists():
        return Frontier(asked.key, asked.conditions)
    found = read_json(out / FILE, Frontier, cure="search again in another --out")
    if (found.key, found.conditions) != (asked.key, asked.conditions):
        raise InputError(
            f"{out} holds the search of something else (other data, weights or settings, another machine, or another "
            "version of mvp-deploy): give another --out, or remove it."
        )
    return replace(found, candidates=tuple(each for each in found.candidates if (out / each.file).is_file()))
