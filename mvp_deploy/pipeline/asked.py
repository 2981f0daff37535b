"""What a search for the model to ship tries: backbones, image sizes, cuts, and the profiles to cut by."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product, zip_longest
from pathlib import Path

from mvp_deploy import backbones
from mvp_deploy.bank.unpruned import digest
from mvp_deploy.base.environment import cpu_name, versions
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import sha256
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Conditions, Precision, Profile
from mvp_deploy.latency.measure import runtime_version
from mvp_deploy.pipeline.places import content
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.tasks import Task
from mvp_deploy.training.config import Training

CUT = RECIPES["default"]  # as `prune` cuts
UNTUNED = Training(steps=0)


@dataclass(frozen=True)
class Source:
    """A backbone and where its weights come from."""

    name: str
    pretrained: bool = False
    weights: Path | None = None

    @property
    def content(self) -> str | bool:
        """A checksum of the weights where they lie here; else whether they are the published ones."""
        if self.weights:
            return sha256(self.weights)
        scheme, _, place = self.name.partition(":")
        return content(place) if scheme == "local-dir" else self.pretrained


@dataclass(frozen=True, eq=False)
class Search:
    """What to try.

    shares: the cuts, of the unpruned milliseconds (or MACs, without a profile), in the order they are tried; None:
    nothing is cut. profiles: of some of the backbones at some of the sizes: these are cut by milliseconds, the others
    by MACs. milliseconds: the budget, to which is cut what is slower (`Place.aimed`); a share is not tried where even
    that of the unpruned model's time is above it. training: of the models on the front; its steps may be 0.
    """

    task: Task
    sources: Sequence[Source]
    sizes: Sequence[int]
    conditions: Conditions
    precisions: Sequence[Precision] = ("fp32",)
    shares: Sequence[float] | None = ()
    milliseconds: float | None = None
    training: Training = UNTUNED
    seed: int = 0
    profiles: Sequence[Profile] = ()

    @cached_property
    def key(self) -> str:
        """A checksum of what candidates are made from and timed on: data, weights, versions, this machine's CPU."""
        made_from = {
            "data": self.task.fingerprint,
            "weights": [source.content for source in self.sources],
            "backbones": [source.name for source in self.sources],
            "profiles": [asdict(profile) for profile in self.profiles],
            "training": asdict(replace(self.training, steps=0)),
            "cut": asdict(CUT),
            "seed": self.seed,
            "versions": versions(),
            "cpu": cpu_name(),
        }
        return digest(made_from)


def profiles_of(
    on: Sequence[Path],
    conditions: Conditions,
    names: Sequence[str],
    sizes: Sequence[int],
    precisions: Sequence[Precision],
    reporter: Reporter,
) -> list[Profile]:
    """What the files hold; one that is not there is made here, which takes minutes, if it can only be of one model.

    Raises:
        MvpError: a file is missing, and what it is to be of is not clear; what `files.searched_by` raises.
    """
    version = runtime_version(conditions)
    searched = partial(files.searched_by, asked=conditions, version=version, backbones=names, sizes=sizes)
    found = {path: searched(path, reporter=reporter) for path in dict.fromkeys(on) if path.exists()}
    missing = [path for path in dict.fromkeys(on) if path not in found]
    known = {(each.backbone, each.input_size[-1], each.precision) for each in found.values()}
    places = [place for place in product(names, sizes, precisions) if place not in known]
    if not missing:
        return [found[path] for path in on]
    if len(missing) > 1 or len(names) > 1 or len(sizes) > 1 or not places or missing[0].suffix != ".json":
        raise _missing(missing, places, conditions)
    name, size, precision = places[0]
    backbone, _ = backbones.create(name, image_size=size)
    source = files.maker(name, backbone, precision, reporter)
    make = partial(files.profile, missing[0], conditions, source=source, reporter=reporter)
    found[missing[0]] = files.profile_on(missing[0], make, reporter)
    files.warn_of_doubts(found[missing[0]], reporter)
    return [found[path] for path in on]


def _missing(
    missing: Sequence[Path], places: Sequence[tuple[str, int, Precision]], conditions: Conditions
) -> InputError:
    """Of profiles that are to be made first, with the commands that make them."""
    told = []
    for path, place in zip_longest(missing, places[: len(missing)]):
        if place is None:
            told.append(f"leave out --on {path}, for which there is no model left")
            continue
        usual = Conditions("onnxruntime")
        pairs = [(key, getattr(conditions, key), getattr(usual, key)) for key in ("runtime", "threads", "batch")]
        pairs.append(("precision", place[2], "fp32"))
        more = "".join(f" --{key} {value}" for key, value, default in pairs if value != default)
        out = shlex.quote(str(path.with_suffix(".json")))
        told.append(f"mvp-deploy profile {place[0]} --image-size {place[1]}{more} --out {out}")
    names = ", ".join(map(str, missing))
    return InputError(f"there is no profile {names}: a profile is of one model, so make it first:\n" + "\n".join(told))
