"""A bank's ladder: models at a few budgets, cut, re-solved and recovered once, for every task that comes later.

What a backbone can spare is much the same for similar tasks. So the bank's tasks decide together, from all their
images: units by their worth to a classifier of all the bank's classes, weights re-solved in closed form, then features
taught back by imitation, without labels. A new task takes the rung of its budget and solves its head.

    BANK/ladder/macs-0.45.safetensors    one rung: keep plan, weights without a head, what it cost and gave
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.bank.add import versions
from mvp_deploy.bank.images import images_of
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.unpruned import digest
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import locked
from mvp_deploy.base.formats import Amount, Count, Sha256, Share, Size
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.base.workspaces import remove_workspaces, workspaces
from mvp_deploy.pruning import knapsack
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.imitation import TUNING, feature_error, imitate
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.structure import KeepPlan
from mvp_deploy.structure.plan import PackedMask
from mvp_deploy.tasks import Images, Preprocessing, Task, load_task, prepare
from mvp_deploy.tasks.task import Split, parse
from mvp_deploy.training import TrainConfig

FORMAT = 1
CRITERION = "obs"
SOLVED_ON = 512  # images
LEFT_OUT = 1 / 8  # of the images: they judge
MOST = 8192  # images kept in memory


@dataclass(frozen=True)
class _Budget:
    fraction: Share
    of: Literal["units", "macs", "params"]
    round_to: Size


@dataclass(frozen=True)
class _Header:
    """Of a rung's file."""

    format: int
    key: str
    backbone: Sha256
    budget: _Budget
    plan: dict[str, PackedMask]
    params: Count
    macs: Count
    errors: dict[str, Amount]
    images: Count
    seconds: Amount
    training: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Rung:
    """A model of the ladder.

    errors: how far its features are from the unpruned ones after each step ('cut', 're-solved', 'imitated'), the
    squared difference relative to their variance, on images left out of the last two. seconds: what making it took.
    """

    path: Path
    budget: Budget
    key: str
    plan: KeepPlan
    params: int
    macs: int
    errors: Mapping[str, float]
    images: int
    seconds: float

    @classmethod
    def read(cls, path: Path, bank: Bank) -> Rung:
        """Raises MvpError if the file is damaged, of another format, or of another backbone."""
        header = tensorfile.read_header(path)
        if header.get("format") != FORMAT:
            raise InputError(f"{path} has format {header.get('format')}, this version reads {FORMAT}: build it again.")
        tensorfile.typed(_Header, header, path)
        bank.require(header["backbone"], str(path))
        return cls(
            path,
            Budget(**header["budget"]),
            header["key"],
            KeepPlan.from_json(header["plan"]),
            header["params"],
            header["macs"],
            header["errors"],
            header["images"],
            header["seconds"],
        )

    def weights(self) -> dict[str, Tensor]:
        """The pruned model's weights, without a head."""
        return tensorfile.load(self.path, ["weights"])[1]["weights"]

    def to_json(self) -> dict[str, Any]:
        return {
            "budget": asdict(self.budget),
            "params": self.params,
            "macs": self.macs,
            "errors": dict(self.errors),
            "images": self.images,
            "seconds": self.seconds,
        }


def rung_for(bank: Bank, budget: Budget) -> Rung | None:
    """The ladder's model at exactly this budget."""
    path = _path(bank, budget)
    rung = Rung.read(path, bank) if path.exists() else None
    return rung if rung is not None and rung.budget == budget else None


def start(original: Original, rung: Rung, train: Images) -> nn.Module:
    """The rung's model for a task: its weights, under a head solved in closed form on the task's images."""
    model = original.pruned(rung.plan)
    head = {name: value for name, value in model.state_dict().items() if name in original.head}
    model.load_state_dict({**rung.weights(), **head}, strict=True)
    solve_head(model, original.classifier, train)
    return model


def build(
    bank: Bank,
    images: Images,
    budgets: Sequence[Budget],
    config: TrainConfig = TUNING,
    *,
    reporter: Reporter,
) -> list[Rung]:
    """Make the ladder's models at these budgets; what is there of the same inputs stays.

    Killed and called again, it goes on where it stopped.

    Args:
        images: labelled by class, of the bank's tasks or similar ones; see `pool`.
        config: of the imitation.

    Raises:
        MvpError: a budget cannot be met, or a smaller model is not exact; (ENVIRONMENT) another process is at it.
    """
    classes = int(images.labels.max()) + 1
    if classes < 2:
        raise InputError("The images are of one class: a ladder needs two at least to know what units are worth.")
    original = Original.create(bank.backbone, bank.state(), classes, device=images.device, seed=config.seed)
    common = {
        "backbone": bank.backbone.fingerprint,
        "images": fingerprint(images),
        "training": asdict(config),
        "versions": versions(),
    }
    busy = f"another process is building the ladder of {bank.folder}: wait for it."
    worth = cache(partial(_Worth.of, original, images, config.seed, reporter))
    made = []
    for budget in budgets:
        key = digest(common | {"budget": asdict(budget)})
        rung = rung_for(bank, budget)
        if rung is None or rung.key != key:
            with locked(bank.folder / ".work" / "ladder.lock", busy):
                rung = _make(bank, original, worth, images, budget, config, key, reporter)
        made.append(rung)
    return made


@dataclass(frozen=True, eq=False)
class _Worth:
    """What each unit is worth to the classifier of all classes, and the seconds it took to know."""

    scores: Mapping[str, Any]
    seconds: float

    @classmethod
    def of(cls, original: Original, images: Images, seed: int, reporter: Reporter) -> _Worth:
        begun = time.perf_counter()
        model = original.copy()
        solve_head(model, original.classifier, images)
        scores = score(CRITERION, original.structure, model, original.full, images, seed=seed)
        reporter.say(f"units scored on {len(images)} images of {int(images.labels.max()) + 1} classes")
        return cls(scores, time.perf_counter() - begun)


def _make(
    bank: Bank,
    original: Original,
    worth: Callable[[], _Worth],
    images: Images,
    budget: Budget,
    config: TrainConfig,
    key: str,
    reporter: Reporter,
) -> Rung:
    name = f"{budget.fraction:.0%} of the {budget.of}"
    (work,) = workspaces(bank.folder / ".work" / f"ladder-{_stem(budget)}", key)
    learned, left_out = _divided(images, config.seed)
    file = work / "solved.safetensors"
    if not file.exists():
        known, begun = worth(), time.perf_counter()
        counts = knapsack.cheapest(original.structure, budget, known.scores)
        plan = keep_best(original.structure, known.scores, counts, seed=config.seed)
        model = original.pruned(plan)
        check_exact(original, plan, model, images)
        cut = feature_error(original, plan, model, left_out)
        reconstruct(original.model, original.structure, plan, model, learned, most=SOLVED_ON, seed=config.seed)
        off = {"cut": cut, "re-solved": feature_error(original, plan, model, left_out)}
        solved = {"errors": off, "plan": plan.to_json(), "seconds": known.seconds + time.perf_counter() - begun}
        tensorfile.save(file, solved, {"weights": model.state_dict()})
    header, sections = tensorfile.load(file)
    errors: dict[str, float] = header["errors"]
    plan = KeepPlan.from_json(header["plan"])
    model = original.pruned(plan, sections["weights"])
    reporter.say(f"{name}: features off by {errors['cut']:.3f} when cut, {errors['re-solved']:.3f} re-solved")
    taken, seconds = 0, 0.0
    for rate in (config.lr, config.lr / 4, config.lr / 16) if config.steps else ():
        with reporter.progress(f"imitation at {name}") as step:
            done = imitate(
                original,
                plan,
                model,
                learned,
                replace(config, lr=rate),
                left_out=left_out,
                checkpoint=work / f"imitation-{rate:g}.checkpoint",
                progress=step,
            )
        taken, seconds = taken + done.steps, seconds + done.seconds
        if done.kept:
            break  # else the state is still the re-solved one: more slowly
    errors["imitated"] = feature_error(original, plan, model, left_out)
    reporter.say(f"{name}: features off by {errors['imitated']:.3f} after {taken} steps")
    if config.steps and errors["imitated"] >= errors["re-solved"]:
        reporter.warn(f"{name}: imitation did not help, so the re-solved weights stay: try more --steps")
    cost = original.cost(plan)
    body = {n: value for n, value in model.state_dict().items() if n not in original.head}
    whole = {
        "format": FORMAT,
        "key": key,
        "backbone": bank.backbone.fingerprint,
        "budget": asdict(budget),
        "plan": plan.to_json(),
        "params": cost.params,
        "macs": cost.macs,
        "errors": errors,
        "images": len(images),
        "seconds": float(header["seconds"]) + seconds,
        "training": asdict(config),
        "versions": versions(),
    }
    tensorfile.typed(_Header, whole, _path(bank, budget))
    tensorfile.save(_path(bank, budget), whole, {"weights": body})
    remove_workspaces(work.parent)
    return Rung.read(_path(bank, budget), bank)


def pool(tasks: Sequence[Task], preprocessing: Preprocessing, device: torch.device | str, most: int = MOST) -> Images:
    """The training images of several tasks as one set, a class that several have being one class.

    At most ``most``, of each task as many; an image that several tasks have counts once.
    """
    share = max(1, most // max(len(tasks), 1))
    classes: dict[tuple[str, str], int] = {}
    seen: set[bytes] = set()
    pixels: list[Tensor] = []
    labels: list[int] = []
    for task in tasks:
        images = part(prepare(task.train, preprocessing), share, 0)
        names = [classes.setdefault((parse(task.name)[0], name), len(classes)) for name in task.classes]
        for x, y in zip(_bytes(images), images.labels.tolist(), strict=True):
            content = hashlib.sha256(x.numpy().tobytes()).digest()
            if content not in seen:
                seen.add(content)
                pixels.append(x)
                labels.append(names[y])
    if not pixels:
        raise InputError("There are no images to build a ladder from: add tasks to the bank, or name --images.")
    place = torch.device(device)
    return Images(torch.stack(pixels).to(place), torch.tensor(labels, device=place), preprocessing, place)


def tasks_of(bank: Bank, more: Sequence[str], reporter: Reporter) -> list[Task]:
    """The bank's tasks, loaded again, and further ones.

    Tasks that are damaged or whose images are missing are left out, with a warning.

    Raises:
        MvpError: one of ``more`` cannot be loaded.
    """
    found = {name: load_task(name) for name in more}
    left_out: list[str] = []
    for entry in bank.entries(left_out):
        try:
            found.setdefault(entry.name, images_of(entry, bank))
        except MvpError as error:
            left_out.append(str(error))
    for sentence in left_out:
        reporter.warn(f"left out: {sentence}")
    return list(found.values())


def _divided(images: Images, seed: int) -> tuple[Images, Images]:
    """Images to learn from, and those left out."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    few = max(1, round(LEFT_OUT * len(images)))
    return taken(images, order[few:]), taken(images, order[:few])


def part(images: Images, most: int, seed: int) -> Images:
    """At most so many of the images, drawn by the seed, in memory."""
    return taken(images, torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:most])


def taken(images: Images, order: Tensor) -> Images:
    """The images with these numbers, in memory."""
    if isinstance(images.pixels, Tensor):
        place = order.to(images.device)
        return replace(images, pixels=images.pixels[place], labels=images.labels[place])
    there, numbers = images.pixels.images, order.numpy()
    chosen = there[numbers] if isinstance(there, np.ndarray) else tuple(there[k] for k in numbers.tolist())
    return prepare(Split(chosen, images.pixels.labels[numbers]), images.preprocessing, images.device)


def fingerprint(images: Images) -> str:
    """SHA-256 over the prepared images and their labels."""
    found = hashlib.sha256(images.labels.cpu().numpy().tobytes())
    for x in _bytes(images):
        found.update(x.numpy().tobytes())
    return found.hexdigest()


def _bytes(images: Images) -> Iterator[Tensor]:
    """Each prepared image as it lies in memory, on the CPU."""
    if not isinstance(images.pixels, Tensor):
        images = part(images, len(images), 0)
    yield from images.pixels.cpu()  # type: ignore[union-attr]


def _stem(budget: Budget) -> str:
    return f"{budget.of}-{budget.fraction:g}"


def _path(bank: Bank, budget: Budget) -> Path:
    return bank.folder / "ladder" / f"{_stem(budget)}.safetensors"
