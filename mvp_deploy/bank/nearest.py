"""The bank's nearest tasks to a new one, and whether they are near at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from mvp_deploy.bank.signature import Signature
from mvp_deploy.bank.store import Bank, Entry
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.votes import Voter
from mvp_deploy.tasks import Images

SHORT_LIST = 3  # LEEP runs a neighbour's model on the target's images: only for this many times the voters wanted


@dataclass(frozen=True)
class Neighbours:
    """voters: nearest first. too_distant: they are no nearer than the bank's tasks are to each other."""

    voters: tuple[Voter, ...]
    too_distant: bool


def similarities(target: Signature, others: Sequence[Signature]) -> np.ndarray:
    """How similar the target is to each task, float64 [others], between -1 and 1.

    Prototypes are centred on the mean of all of them and compared by cosine; two tasks are as similar as each
    class is, on average over both tasks' classes, to its best match in the other task.
    """
    return _matches(_unit([target, *others]))[0, 1:]


def _matches(prototypes: Sequence[np.ndarray], rows: int = 1) -> np.ndarray:
    """Similarity of the first ``rows`` tasks to all, float64 [rows, tasks]."""
    result = np.zeros((rows, len(prototypes)))
    for i in range(rows):
        for j, other in enumerate(prototypes):
            cosine = prototypes[i] @ other.T
            result[i, j] = (cosine.max(1).mean() + cosine.max(0).mean()) / 2
    return result


def _unit(signatures: Sequence[Signature]) -> list[np.ndarray]:
    """Prototypes centred over all tasks and scaled to length 1, per task float64 [classes, features]."""
    centre = np.mean([signature.mean.mean(0, dtype=np.float64) for signature in signatures], axis=0)
    centred = [signature.mean - centre for signature in signatures]
    return [value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12) for value in centred]


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


def neighbours(
    bank: Bank,
    signature: Signature,
    recipe: Recipe,
    original: Original,
    train: Images,
    *,
    data: str = "",
    seed: int = 0,
) -> Neighbours:
    """The voters a recipe asks, nearest first.

    A stored task of the same images (``data``: their fingerprint) is no neighbour but the task itself, and left out.
    """
    if not recipe.asks_neighbours:
        return Neighbours((), False)
    entries = [entry for entry in bank.entries() if entry.data != data]
    for entry in entries:
        bank.require(entry.backbone, str(entry.path))
    if not entries:
        return Neighbours((), False)
    known = [entry.signature() for entry in entries]
    similarity = similarities(signature, known)
    wanted = min(recipe.neighbours or len(entries), len(entries))
    if recipe.nearest_by == "random":
        order = np.random.default_rng(seed).permutation(len(entries))[:wanted]
        order = order[np.argsort(-similarity[order], kind="stable")]
    elif recipe.nearest_by == "farthest":
        order = np.argsort(similarity, kind="stable")[:wanted]
    else:
        order = np.argsort(-similarity, kind="stable")[:wanted]
    if recipe.nearest_by == "leep":
        order = np.argsort(-similarity, kind="stable")[: wanted * SHORT_LIST]
        sized = {n: original.with_classes(n) for n in {len(entries[i].classes) for i in order}}
        scored = np.array([_leep_of(entries[i], sized[len(entries[i].classes)], train, seed) for i in order])
        best = np.argsort(-scored, kind="stable")[:wanted]
        order, similarity = order[best], _placed(similarity, order, scored)
    distant = _too_distant(signature, known, order)
    return Neighbours(tuple(_voter(entries[i], float(similarity[i])) for i in order), distant)


def _voter(entry: Entry, similarity: float) -> Voter:
    return Voter(entry.name, similarity, entry.plan, entry.scores(), entry.weights)


def _placed(similarity: np.ndarray, order: np.ndarray, scored: np.ndarray) -> np.ndarray:
    result = similarity.copy()
    result[order] = scored
    return result


def _too_distant(target: Signature, known: Sequence[Signature], order: np.ndarray) -> bool:
    """Whether the chosen tasks are less similar to the target than two tasks of the bank typically are."""
    if len(known) < 3:
        return False
    prototypes = _unit([*known, target])
    among = _matches(prototypes[:-1], rows=min(len(known), 50))
    pairs = among[np.eye(*among.shape) == 0]
    to_target = _matches([prototypes[-1], *(prototypes[i] for i in order)])[0, 1:]
    return bool(to_target.mean() < np.median(pairs))


def _leep_of(entry: Entry, original: Original, train: Images, seed: int, limit: int = 512) -> float:
    """LEEP of a stored task's pruned model on (at most ``limit`` of) the target's training images."""
    model = original.pruned(entry.plan, entry.weights()).eval()
    generator = torch.Generator().manual_seed(seed)
    size = min(256, len(train))
    probabilities, labels = [], []
    with torch.no_grad():
        for x, y in islice(train.batches(size, shuffle=True, generator=generator), -(-limit // size)):
            probabilities.append(model(x).float().softmax(1).cpu().numpy())
            labels.append(y.cpu().numpy())
    return leep(np.concatenate(probabilities), np.concatenate(labels))
