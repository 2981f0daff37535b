"""The bank's nearest tasks to a new one, and whether they are near at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch

from mvp_deploy.bank.new import NewTask
from mvp_deploy.bank.signature import Signature
from mvp_deploy.bank.store import Entry
from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.pruning.head import recalibrate, separability
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.votes import Voter
from mvp_deploy.tasks import Images

Score = Callable[[str, Entry, Original, Images], float]
SHORT_LIST = 15  # some scores run a neighbour's model on the target's images: only for so many, or the voters wanted
LEEP_IMAGES = 512


@dataclass(frozen=True)
class Neighbours:
    """voters: nearest first; of the control 'random' in random order.

    too_distant: they are farther from the target than the bank's tasks from each other. measure: what the voters'
    similarity is, with its unit. damaged: a sentence for each stored task that could not be asked.
    """

    voters: tuple[Voter, ...]
    too_distant: bool
    measure: str = ""
    damaged: tuple[str, ...] = ()


def similarities(target: Signature, others: Sequence[Signature]) -> np.ndarray:
    """How similar the target is to each task, float64 [others], between -1 and 1.

    Prototypes are centred on the mean of all of them and compared by cosine; two tasks are as similar as each
    class is, on average over both tasks' classes, to its best match in the other task.
    """
    prototypes = _unit([target, *others])
    return _matches(prototypes[0], prototypes[1:])


def _unit(signatures: Sequence[Signature]) -> list[np.ndarray]:
    """Prototypes centred over all tasks and scaled to length 1, per task float64 [classes, features]."""
    centre = np.mean([signature.mean.mean(0, dtype=np.float64) for signature in signatures], axis=0)
    centred = [signature.mean - centre for signature in signatures]
    return [value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12) for value in centred]


def _matches(one: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Similarity of one task's unit prototypes to each other task's, float64 [others]."""
    sizes = np.array([len(other) for other in others])
    starts = np.cumsum(sizes) - sizes
    cosine = one @ np.concatenate(others).T
    ours = np.maximum.reduceat(cosine, starts, axis=1).mean(0)
    theirs = np.add.reduceat(cosine.max(0), starts) / sizes
    return np.asarray((ours + theirs) / 2)


def too_distant(target: Signature, known: Sequence[Signature], wanted: int) -> bool:
    """Whether the target is farther from its ``wanted`` nearest tasks than every one of the bank's is from its own.

    Tried on fifty of the bank's tasks, each against all others. False if the bank has fewer than four tasks:
    too few to know what is usual.
    """
    if len(known) < 4:
        return False
    prototypes = _unit([*known, target])
    checked = np.random.default_rng(0).permutation(len(known))[:50]

    def closeness(index: int) -> float:
        similarity = _matches(prototypes[index], prototypes[:-1])
        if index < len(known):
            similarity = np.delete(similarity, index)
        return float(np.sort(similarity)[-wanted:].mean())

    return closeness(len(known)) < min(closeness(index) for index in checked)


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """LEEP (Nguyen et al. 2020, arXiv 2002.12462): mean log-likelihood of the expected empirical predictor, <= 0.

    probabilities: a source model's softmax on the target's images, float [n, source classes]; labels: the target's,
    int [n]. Joint P(y, z) = 1/n sum over i with y_i = y of theta(x_i)_z; from it P(y | z); LEEP = 1/n sum_i log
    sum_z P(y_i | z) theta(x_i)_z.
    """
    joint = np.zeros((int(labels.max()) + 1, probabilities.shape[1]))
    np.add.at(joint, labels, probabilities.astype(np.float64))
    conditional = joint / np.maximum(joint.sum(0, keepdims=True), 1e-300)
    likelihood = (conditional[labels] * probabilities).sum(1)
    return float(np.log(np.maximum(likelihood, 1e-300)).mean())


def neighbours(new: NewTask, recipe: Recipe, *, seed: int = 0, score: Score | None = None) -> Neighbours:
    """The voters that a recipe asks about a new task, nearest first.

    A stored task of the same images is the task itself, not a neighbour, and left out; so is one of the same name,
    which was trained on held-out images if they were split in another way then.

    Args:
        seed: of the control 'random'.
        score: replaces `run_model`, to remember its answers.
    """
    if not recipe.asks_neighbours:
        return Neighbours((), False)
    damaged: list[str] = []
    known: list[tuple[Entry, Signature]] = []
    for entry in new.bank.entries(damaged):
        with _spared(damaged):
            if entry.data != new.task.fingerprint and entry.name != new.task.name:
                new.bank.require(entry.backbone, str(entry.path))
                known.append((entry, _fitting(entry, new.signature)))
    if not known:
        return Neighbours((), False, damaged=tuple(damaged))
    entries, signatures = zip(*known, strict=True)
    wanted = min(recipe.neighbours or len(known), len(known))
    by = "prototypes" if recipe.nearest_by == "features" and not new.original.classifier else recipe.nearest_by
    ranked = list(zip(entries, similarities(new.signature, signatures).tolist(), strict=True))
    if by == "random":
        ranked = [ranked[place] for place in np.random.default_rng(seed).permutation(len(ranked))]  # the first leads
    else:
        ranked.sort(key=itemgetter(1), reverse=by != "farthest")
    if by in RUN_MODELS:
        ranked = _rescored(
            by, [entry for entry, _ in ranked[: max(wanted, SHORT_LIST)]], new, score or run_model, damaged
        )
    voters: list[Voter] = []
    for entry, similarity in ranked:
        with _spared(damaged):
            if len(voters) < wanted:
                voters.append(_voter(entry, similarity))
    chosen_near = by not in ("random", "farthest")  # the controls are far on purpose
    distant = chosen_near and too_distant(new.signature, signatures, wanted)
    return Neighbours(tuple(voters), distant, MEASURES[by], tuple(damaged))


def _rescored(
    by: str, entries: Sequence[Entry], new: NewTask, score: Score, damaged: list[str]
) -> list[tuple[Entry, float]]:
    """The entries whose models can be run on the new task's images, with their scores, nearest first."""
    sized = {classes: new.original.with_classes(classes) for classes in {len(entry.classes) for entry in entries}}
    found: list[tuple[Entry, float]] = []
    for entry in entries:
        with _spared(damaged):
            found.append((entry, score(by, entry, sized[len(entry.classes)], new.train)))
    return sorted(found, key=itemgetter(1), reverse=True)


def _fitting(entry: Entry, target: Signature) -> Signature:
    """A stored task's signature. Raises MvpError if it cannot be compared with the target's."""
    found = entry.signature()
    if found.mean.shape[1] != target.mean.shape[1]:
        raise InputError(f"{entry.path} has a signature of another backbone's features: add the task again.")
    return found


@contextmanager
def _spared(damaged: list[str]) -> Iterator[None]:
    """One damaged file of a bank does not stop the others: its sentence is kept."""
    try:
        yield
    except MvpError as error:
        damaged.append(str(error))


def _voter(entry: Entry, similarity: float) -> Voter:
    entry.check()
    return Voter(entry.name, similarity, entry.plan, entry.scores(), entry.weights)


def run_model(kind: str, entry: Entry, original: Original, train: Images) -> float:
    """How near a stored task is by what its pruned model makes of the target's training images; greater is nearer.

    kind: 'leep', its classes foretell the target's; 'features', its features tell the target's classes apart.
    original: with the stored task's number of classes.
    """
    return RUN_MODELS[kind](entry, original, train)


@full_float32()
def _leep_of(entry: Entry, original: Original, train: Images) -> float:
    """LEEP of a stored task's pruned model on (at most `LEEP_IMAGES` of) the target's training images."""
    model = original.pruned(entry.plan, entry.weights()).eval()
    size = min(256, len(train))
    probabilities, labels = [], []
    with torch.no_grad():
        for x, y in train.sample(size, -(-LEEP_IMAGES // size), seed=0):
            probabilities.append(model(x).float().softmax(1).cpu().numpy())
            labels.append(y.cpu().numpy())
    return leep(np.concatenate(probabilities), np.concatenate(labels))


def _features_of(entry: Entry, original: Original, train: Images) -> float:
    """How well a stored task's pruned model tells the target's classes apart, its batch norms recomputed."""
    model = original.pruned(entry.plan, entry.weights())
    recalibrate(model, train, batches=4)
    return separability(model, original.classifier, train)


COSINE = "cosine of class prototypes, -1 to 1"
MEASURES: Mapping[str, str] = {  # what a voter's similarity is, and its unit; greater is nearer
    "prototypes": COSINE,
    "leep": "LEEP, log-likelihood in nats, at most 0",
    "features": "its features' left-out log-likelihood in nats, at most 0",
    "random": COSINE,
    "farthest": COSINE,
}
RUN_MODELS: Mapping[str, Callable[[Entry, Original, Images], float]] = {
    "leep": _leep_of,
    "features": _features_of,
}
