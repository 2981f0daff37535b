"""The pretrained timm model every task starts from: its recipe, its weights, its fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.errors import DeployError, ExitCode
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.timm_import import timm

__all__ = ["Backbone", "build", "create", "timm"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Backbone:
    """Everything but the weights that it takes to make the backbone again."""

    name: str  # timm's
    image_size: int | None  # the edge in pixels, where another than the model's own was asked for
    weights: str  # where the weights came from, in words
    weights_sha256: str  # of names, types, shapes and values; no matter in which file they lay
    preprocessing: Preprocessing
    license: str | None  # of the pretrained weights, where timm knows it

    @property
    def fingerprint(self) -> str:
        """SHA-256 over architecture, weights and preprocessing: equal only for interchangeable backbones."""
        parts = (self.name.split(".")[0], self.image_size, self.weights_sha256, self.preprocessing)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backbone:
        """The inverse of `to_json`; raises DeployError for data that does not describe a backbone."""
        try:
            return cls(**{**data, "preprocessing": Preprocessing.from_json(data["preprocessing"])})
        except (TypeError, KeyError) as error:
            raise DeployError(f"this is not a description of a backbone: {error!r}") from error


def create(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> tuple[Backbone, dict[str, Tensor]]:
    """A timm backbone and its state dict without the head (float32, on the CPU).

    Weights are timm's own (``pretrained``), or of a .safetensors or a .pth/.pt file (``weights``), or random, drawn
    from ``seed``. A head in the weights is dropped.

    Raises:
        DeployError: (INPUT) unknown model, or a file that does not fit it; (ENVIRONMENT) the download failed.
    """
    if pretrained and weights is not None:
        raise DeployError("both --pretrained and --weights were given: choose one source of weights")
    _check_name(name)
    model = _model(name, image_size, num_classes=0, seed=seed, pretrained=pretrained)
    if weights is not None:
        _load(model, _read(weights), str(weights))
        source = f"file {Path(weights).name}"
    else:
        source = "timm's pretrained weights" if pretrained else f"random, seed {seed}"
    config = timm().data.resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    preprocessing = Preprocessing(**{key: _plain(value) for key, value in config.items()})
    license = model.pretrained_cfg.get("license") if pretrained else None
    return Backbone(name, image_size, source, _digest(state), preprocessing, license), state


def build(backbone: Backbone, state: State, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The backbone as an eager model in eval mode on the CPU: float32 [b, 3, H, W] to logits [b, num_classes].

    The head is fresh, drawn from ``seed``, unless ``state`` has one of that size; ``num_classes=0`` gives pooled
    features instead.
    """
    model = _model(backbone.name, backbone.image_size, num_classes, seed=seed)
    _load(model, state, f"the backbone {backbone.name}")
    return model


def _model(
    name: str, image_size: int | None, num_classes: int, *, seed: int, pretrained: bool = False
) -> nn.Module:
    models = timm().models
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained}
    if image_size is not None and models.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size  # others take images of any size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return models.create_model(name, **options).eval()
        except Exception as error:
            if pretrained:
                raise DeployError(
                    f"the pretrained weights of {name} could not be had ({_first_line(error)}): check the network, or "
                    "get the file elsewhere and pass it with --weights FILE",
                    ExitCode.ENVIRONMENT,
                ) from error
            if image_size is not None:
                raise DeployError(
                    f"{name} cannot be built for images of {image_size} pixels ({_first_line(error)}): choose another "
                    "--image-size"
                ) from error
            raise


def _check_name(name: str) -> None:
    models = timm().models
    architecture, _, tag = name.partition(".")
    if not models.is_model(architecture):
        close = difflib.get_close_matches(architecture, models.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "python -c 'import timm; print(timm.list_models())'"
        raise DeployError(f"timm {timm().__version__} has no model {name!r}: {hint}")
    known = models.list_pretrained(architecture + ".*")
    if tag and name not in known:
        raise DeployError(f"{architecture} has no weights {tag!r}: known are {', '.join(known) or 'none'}")


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of the wrappings that training scripts put around it."""
    path = Path(path)
    if not path.is_file():
        raise DeployError(f"there is no weights file {path}: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip, pickle: each has errors of its own
        raise DeployError(
            f"{path} cannot be read as safetensors or as a PyTorch file of plain tensors ({_first_line(error)}): save "
            "the model's state_dict() alone, best as .safetensors"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DeployError(f"{path} holds no state dict: save the model's state_dict(), best as .safetensors")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in content.items()}


def _load(model: nn.Module, state: State, source: str) -> None:
    """Load everything but the head; the head too where it has the model's shape.

    State dicts in another release's form go through timm's own converter for the architecture, if it has one (it
    renames keys, and resamples position embeddings to another image size).
    """
    own = model.state_dict()
    heads = _heads(model)

    def backbone(entries: State) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in entries.items() if not key.startswith(heads)}

    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and backbone(state) != backbone(own):
        try:
            state = convert(dict(state), model)
        except Exception as error:
            raise _mismatch(source, _first_line(error)) from error
    state = {
        key: value
        for key, value in state.items()
        if not key.startswith(heads) or (key in own and own[key].shape == value.shape)
    }
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape that differs
        raise _mismatch(source, str(error).split("\n")[1].strip()) from error
    missing = [key for key in result.missing_keys if not key.startswith(heads)]
    for word, keys in (("lack", missing), ("have the unknown", result.unexpected_keys)):
        if keys:
            raise _mismatch(source, f"they {word} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}")


def _mismatch(source: str, what: str) -> DeployError:
    return DeployError(f"the weights of {source} do not fit the model: {what}; choose the model they were made for")


def _heads(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the head's entries in the state dict; timm knows them by the model's configuration."""
    names = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _digest(state: State) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
