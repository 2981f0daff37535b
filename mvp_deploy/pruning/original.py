"""The unpruned model of one task, what can be removed from it, and going between it and its pruned versions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone, build
from mvp_deploy.backbones.backbone import digest
from mvp_deploy.backbones.conventions import restate_sizes
from mvp_deploy.base.errors import ParityError
from mvp_deploy.pruning.biases import fit_biases
from mvp_deploy.pruning.head import classifier, solve_head
from mvp_deploy.pruning.importance import require_numbers
from mvp_deploy.structure import Cost, KeepPlan, Structure, analyze, prune, scatter, silence
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.own import check_classifier
from mvp_deploy.training import TrainConfig, Training

TOLERANCE = 1e-5
DEFAULT = Training()


class Headed(NamedTuple):
    """An unpruned model, not to be changed, and whether its head could be solved in closed form."""

    model: nn.Module
    solved: bool


@dataclass(frozen=True)
class Original:
    """A backbone with pretrained weights and a fresh head for one task; ``model`` is never trained or changed.

    structure: of that model, whose unit groups do not depend on the number of classes.
    head: the names of the parameters that belong to the classifier; none of them where it was trained.
    own: a module that no name makes. Each smaller one is compared with it, silenced, as soon as it is made.
    """

    backbone: Backbone
    num_classes: int
    model: nn.Module
    structure: Structure
    head: frozenset[str]
    own: bool = False

    @classmethod
    def create(
        cls,
        backbone: Backbone,
        state: Mapping[str, Tensor],
        num_classes: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> Original:
        """Build the model (its head drawn from ``seed``) and analyse its structure."""
        model = build(backbone, state, num_classes, seed=seed)
        structure = analyze(
            model, torch.zeros(2, *backbone.preprocessing.input_size), allow_inexact=backbone.allow_inexact
        )
        head = frozenset(name for name in model.state_dict() if name not in state)
        return cls(backbone, num_classes, model.to(device), structure, head)

    @classmethod
    def of(cls, model: nn.Module, images: Images) -> Original:
        """A module of one's own and its trained head, for ``images`` that are its input; it is not copied."""
        require_numbers(model)
        x, _ = next(images.batches(2))
        structure = analyze(model, x)
        check_classifier(model, images)
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        kind, sha256 = type(model).__name__, digest(weights)
        backbone = Backbone(kind, None, "a module of one's own", sha256, images.preprocessing, None)
        with torch.no_grad():
            return cls(backbone, model(x).shape[1], model, structure, frozenset(), own=True)

    def with_classes(self, num_classes: int) -> Original:
        """The same backbone with a head for another number of classes."""
        if num_classes == self.num_classes:
            return self
        body = {name: value.cpu() for name, value in self.model.state_dict().items() if name not in self.head}
        return Original.create(self.backbone, body, num_classes, device=self.device)

    @property
    def trained(self) -> bool:
        """Whether the head came with the weights: the model was trained for these classes already."""
        return not self.head

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def classifier(self) -> tuple[str, ...]:
        """The names of its last linear layers, which smaller models keep; empty if it has a head of another form."""
        return classifier(self.model)

    @property
    def full(self) -> KeepPlan:
        return KeepPlan.full(self.structure)

    def cost(self, plan: KeepPlan | None = None) -> Cost:
        """Of the unpruned model, or of the smaller one ``plan`` describes."""
        return self.structure.cost(plan)

    def cost_of(self, model: nn.Module, plan: KeepPlan) -> Cost:
        """Of the smaller ``model`` of ``plan`` as it is, with the biases that re-solving may have added."""
        return replace(self.cost(plan), params=sum(parameter.numel() for parameter in model.parameters()))

    def copy(self) -> nn.Module:
        """The unpruned model, to train."""
        return copy.deepcopy(self.model)

    def headed(self, images: Images) -> Headed:
        """The unpruned model with a head in closed form, worked out once for the same ``images``."""
        if images not in self._headed:
            model = self.copy()
            self._headed[images] = Headed(model, solve_head(model, self.classifier, images))
        return self._headed[images]

    @cached_property
    def _headed(self) -> WeakKeyDictionary[Images, Headed]:
        return WeakKeyDictionary()

    def pruned(self, plan: KeepPlan, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The smaller model ``plan`` describes, with ``state`` as its weights (None: cut from the pretrained).

        One of a backbone is compared with the original once, by `check_exact`, before it is saved.
        """
        model = prune(self.structure, self.model, plan, check=self.own)
        restate_sizes(model, self.model, tuple(self.structure.example[0].shape[1:]))
        if state is not None:
            fit_biases(model, state)
            model.load_state_dict(dict(state), strict=True)
        return model

    def widened(self, plan: KeepPlan, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full-size weights: ``state`` where ``plan`` kept, the pretrained weights elsewhere."""
        return over(self.structure, plan, state, self.model.state_dict())


def suited(backbone: Backbone, asked: Training = DEFAULT, seed: int = 0) -> TrainConfig:
    """The training that is asked for, its gaps filled as suits the backbone and the optimizer.

    AdamW for transformers and their kin (what uses LayerNorm), SGD for others.
    """
    optimizer = asked.optimizer
    if optimizer is None:
        model = backbones.timm().create_model(backbone.name, num_classes=0)
        normed = any(isinstance(module, nn.LayerNorm) for module in model.modules())
        optimizer = "adamw" if normed else "sgd"
    usual = TrainConfig(lr=1e-3, weight_decay=0.05) if optimizer == "adamw" else TrainConfig()
    given = {name: value for name, value in asdict(asked).items() if value is not None}
    return replace(usual, **given | {"optimizer": optimizer, "seed": seed})


def over(
    structure: Structure, plan: KeepPlan, state: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Full-size tensors: the small ``state`` scattered over a copy of ``base``."""
    there = scatter(structure, {name: torch.ones_like(value) for name, value in state.items()}, plan)
    wide = scatter(structure, dict(state), plan)
    return {
        name: torch.where(there[name].bool(), wide[name], value) if name in wide else value.clone()
        for name, value in base.items()
    }


def check_exact(original: Original, plan: KeepPlan, model: nn.Module, images: Images) -> float:
    """Compare a pruned model with the full model whose removed units are silenced, on eight real images.

    On the CPU in float64, where rounding is far below the limit, so that only a wrong removal can reach it. Where the
    backbone allows inexact removal, what the operators that mix units compute over the units that stay is expected;
    every other difference is as wrong as in any model.

    Returns:
        The largest difference from the silenced model relative to the largest output: rounding, and what inexact
        removal costs.

    Raises:
        MvpError: (PARITY) the models differ, by 1e-5 or more, by more than inexact removal explains.
    """
    full, small = (copy.deepcopy(either).cpu().double().eval() for either in (original.model, model))
    full.load_state_dict(over(original.structure, plan, small.state_dict(), full.state_dict()))
    x = next(iter(images.batches(8)))[0].cpu().double()
    structure = original.structure

    def error(*, inexact: bool) -> float:
        expected = silence(structure, full, plan, inexact=inexact)(x)
        return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30))

    with torch.no_grad():
        got = small(x)
        wrong = error(inexact=True)
        if not wrong < TOLERANCE:
            raise ParityError(
                f"The pruned {original.backbone.name} differs from the silenced original by {wrong:.1e} (limit "
                f"{TOLERANCE:.0e}), so it was not saved. Its architecture is not handled exactly: please report it.",
            )
        return error(inexact=False) if structure.inexact else wrong
