"""The pretrained timm model every task starts from: its recipe, its weights, its fingerprint."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.backbones.weights import head_prefixes, load_weights, read_weights
from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError, first_line
from mvp_deploy.base.formats import Malformed, Sha256, Within, parse
from mvp_deploy.tasks.preprocessing import MAX_EDGE, Edge, Preprocessing


@dataclass(frozen=True)
class Backbone:
    """Everything but the weights that it takes to make the backbone again."""

    name: Annotated[str, Within(1, 200)]  # timm's
    image_size: Edge | None  # in pixels, where another than the model's own was asked for
    weights: str  # where the weights came from, in words
    weights_sha256: Sha256  # of names, types, shapes and values; no matter in which file they lay
    preprocessing: Preprocessing
    license: str | None  # of the pretrained weights, where timm knows it
    allow_inexact: bool = False  # whether units that an operator mixes with others may be removed

    @property
    def fingerprint(self) -> str:
        """SHA-256 over architecture, weights and preprocessing: equal only for interchangeable backbones."""
        parts = (self.name.partition(".")[0], self.image_size, self.weights_sha256, self.preprocessing)
        return hashlib.sha256((repr(parts) + " inexact" * self.allow_inexact).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backbone:
        """The inverse of `to_json`; raises MvpError for data that does not describe a backbone."""
        try:
            return parse(cls, data)
        except Malformed as error:
            raise InputError(f"this is not a description of a backbone: {error}") from error


def create(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> tuple[Backbone, dict[str, Tensor]]:
    """A timm backbone and its state dict without the head (on the CPU).

    name: timm's, or a published timm model's, which comes with its weights: ``hf-hub:OWNER/NAME`` on the Hugging
    Face hub, ``local-dir:FOLDER`` for the same files in a folder. Weights are timm's own (``pretrained``), or those of
    a .safetensors or a .pth/.pt file (``weights``), or random, drawn from ``seed``. A head among them is dropped.

    Raises:
        MvpError: (INPUT) unknown model, or weights that do not fit it; (ENVIRONMENT) the download failed.
    """
    if pretrained and weights is not None:
        raise InputError("both --pretrained and --weights were given: choose one source of weights")
    if ":" in name:
        if weights is not None:
            raise InputError(f"{name} comes with its weights: leave out --weights, or name timm's architecture alone")
        return _published(name, image_size)
    require_known(name, pretrained)
    if image_size is not None and not 1 <= image_size <= MAX_EDGE:
        raise _wrong_size(name, image_size, ValueError(f"edges lie within 1 and {MAX_EDGE}"))
    model = _whole(name, image_size, seed=seed, pretrained=pretrained)
    _check_size(model, name, image_size, _preprocessing(model, image_size))
    source = "timm's pretrained weights" if pretrained else f"random, from seed {seed}"
    if weights is not None:
        load_weights(model, read_weights(weights), str(weights))
        source = f"the file {Path(weights).name}"
    state = _body(model)
    license = timm().models.get_pretrained_cfg(name).license if pretrained else None
    return Backbone(name, image_size, source, digest(state), _preprocessing(model, image_size), license), state


def _published(name: str, image_size: int | None) -> tuple[Backbone, dict[str, Tensor]]:
    """A model that somebody made with timm and published, with its weights and preprocessing."""
    model = _whole(name, None, pretrained=True)
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    architecture, preprocessing = str(config["architecture"]), _preprocessing(model, None)

    def plain(size: int) -> nn.Module:
        """The architecture as timm makes it from its name, with the published weights."""
        made = _whole(architecture, size)
        _check_size(made, architecture, size, _preprocessing(model, size))
        load_weights(made, model.state_dict(), name)
        return made

    own = preprocessing.input_size[1]
    example = torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(plain(own)(example), model(example), rtol=1e-4, atol=1e-5):
            raise InputError(
                f"{name} is not timm's plain {architecture}: it was made with arguments that only its own config.json "
                "has. Publish it without them, or pass its weights with --weights FILE to the architecture they fit"
            )
    size = image_size or own
    state = _body(plain(size))
    return Backbone(architecture, size, name, digest(state), _preprocessing(model, size), config.get("license")), state


def build(backbone: Backbone, state: Mapping[str, Tensor] | None, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The backbone as an eager model in eval mode on the CPU: float32 [b, 3, H, W] to logits [b, k].

    The head (k = ``num_classes``) is fresh, drawn from ``seed``, unless ``state`` has one of that size.
    ``num_classes=0`` gives pooled features [b, c] instead. Without a ``state`` all is random: for the shapes.

    Raises:
        MvpError: the state does not fit, or the installed timm has no such model.
    """
    require_known(backbone.name)
    model = _model(backbone.name, backbone.image_size, num_classes, seed=seed)
    if state is not None:
        if num_classes == 0:  # timm may leave out more of the head than its classifier
            state = {key: state[key] for key in state.keys() & model.state_dict().keys()}
        load_weights(model, state, f"the backbone {backbone.name}")
    return model


def _whole(name: str, image_size: int | None, *, seed: int = 0, pretrained: bool = False) -> nn.Module:
    """All of the model that comes before its classifier.

    Where timm leaves out more than that with the classes (LeViT's norm, CAFormer's hidden layer), with its classifier.
    """
    model = _model(name, image_size, 0, seed=seed, pretrained=pretrained)
    with torch.device("meta"):
        whole = _model(name, image_size, 2, seed=seed)
    more = whole.state_dict().keys() - model.state_dict().keys()
    if all(key.startswith(head_prefixes(whole)) for key in more):
        return model
    return _model(name, image_size, None, seed=seed, pretrained=pretrained)


def _body(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's entries without its classifier's."""
    heads = head_prefixes(model)
    return {key: value.detach().clone() for key, value in model.state_dict().items() if not key.startswith(heads)}


def _model(
    name: str, image_size: int | None, num_classes: int | None, *, seed: int, pretrained: bool = False
) -> nn.Module:
    """Timm's model; ``num_classes`` None: as many as it was trained for."""
    models = timm().models
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if image_size is not None and models.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size  # other models take images of any size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = models.create_model(name, pretrained=pretrained, **options)
        except Exception as error:  # from timm, the hub's client, the network and the disk
            if name.startswith("local-dir:"):
                raise InputError(
                    f"{name} cannot be loaded ({first_line(error)}): name a folder with the config.json and the "
                    "model.safetensors of a timm model"
                ) from error
            if pretrained:
                raise EnvironmentMissing(
                    f"the pretrained weights of {name} could not be fetched ({first_line(error)}): check the name and "
                    "the network, or get the file elsewhere and pass it with --weights FILE",
                ) from error
            raise _wrong_size(name, image_size, error) from error
    return model.eval()


def require_known(name: str, pretrained: bool = False) -> None:
    """Refuse what timm has no model of (or no pretrained weights), naming the nearest."""
    models = timm().models
    architecture, _, tag = name.partition(".")
    if not models.is_model(architecture):
        close = difflib.get_close_matches(architecture, models.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() in Python lists them"
        hint = f"one that is published on the hub is named hf-hub:{name}" if "/" in name else hint
        raise InputError(f"timm {timm().__version__} has no model {architecture!r}: {hint}")
    tags = [known.partition(".")[2] for known in models.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(f"timm has no {tag!r} of {architecture}: it has {', '.join(tags) or 'no weights'}")
    if pretrained and not models.is_model_pretrained(name):
        raise InputError(f"timm has no pretrained weights for {name}: pass some with --weights FILE")


def _check_size(model: nn.Module, name: str, image_size: int | None, preprocessing: Preprocessing) -> None:
    try:
        with torch.no_grad():
            model(torch.zeros(1, *preprocessing.input_size))
    except (RuntimeError, ValueError, AssertionError) as error:  # windows and patches do not suit every size
        raise _wrong_size(name, image_size, error) from error


def preprocessing_of(model: nn.Module, image_size: int | None = None) -> Preprocessing | None:
    """How a timm model wants its images; None for any other module."""
    return _preprocessing(model, image_size) if getattr(model, "pretrained_cfg", None) else None


def recognise(model: nn.Module, image_size: int | None = None) -> Backbone | None:
    """The recipe of a timm model that somebody made, for `build` to make it again; None if its name alone does not.

    A model that was made with further arguments, or changed afterwards, is not recognised: built from its name it has
    other parameters or gives other outputs.
    """
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name, classes = str(config.get("architecture", "")), getattr(model, "num_classes", 0)
    if name not in timm().list_models(name):
        return None
    preprocessing = _preprocessing(model, image_size)
    own = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    made = _model(name, image_size, classes, seed=0)
    if {key: value.shape for key, value in made.state_dict().items()} != {k: v.shape for k, v in own.items()}:
        return None
    made.load_state_dict(own)
    example = torch.randn(1, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        twin = copy.deepcopy(model).cpu().float().eval()
        if not torch.allclose(made.float()(example), twin(example), rtol=1e-4, atol=1e-5):
            return None
    body = {key: value for key, value in own.items() if not key.startswith(head_prefixes(model))}
    return Backbone(name, image_size, "a module of one's own", digest(body), preprocessing, None)


def _preprocessing(model: nn.Module, image_size: int | None) -> Preprocessing:
    config: dict[str, Any] = timm().data.resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    return Preprocessing.from_json(config)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of names."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _wrong_size(name: str, image_size: int | None, error: Exception) -> MvpError:
    size = "its own images" if image_size is None else f"images of {image_size} pixels"
    return InputError(f"{name} cannot take {size} ({first_line(error)}): choose another --image-size")
