"""New biases: where a layer has none and no batch norm follows, re-solving has a constant to put somewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from mvp_deploy.pruning.linear import LinearLayer, linear_layers

WEIGHT, BIAS = ".weight", ".bias"


def give_biases(
    model: nn.Module, layers: Mapping[str, LinearLayer], names: Collection[str], example: tuple[Tensor, ...]
) -> Mapping[str, LinearLayer]:
    """Give layers a bias of zeros, in place, where they have nowhere to put a constant.

    A module that computes without its ``bias`` stays without, and so does a recorded program, which has no modules.

    Args:
        layers: of ``model``, by their weights' names. names: of those that may get one.

    Returns:
        The layers of ``model`` as they are then.
    """
    bare = [name for name in names if layers[name].bias is None and layers[name].norm is None]
    modules = {name: module for name in bare if (module := _without(model, name)) is not None}
    if not modules:
        return layers
    for module in modules.values():
        _give(module)
    found = linear_layers(model, example)
    for name, module in modules.items():
        if found[name].bias is None:
            module.register_parameter("bias", None)
    return found


def fit_biases(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``model`` the new biases that are in ``state``, so that it can be loaded."""
    for name in state:
        if name.endswith(BIAS):
            module = _without(model, name.removesuffix(BIAS) + WEIGHT)
            if module is not None:
                _give(module)


def _without(model: nn.Module, weight: str) -> nn.Module | None:
    """The linear layer or convolution with that weight if it has no bias."""
    try:
        module = model.get_submodule(weight.removesuffix(WEIGHT))
    except AttributeError:
        return None
    plain = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    return module if plain and weight.endswith(WEIGHT) and module.bias is None else None


def _give(module: nn.Module) -> None:
    weight = module.get_parameter("weight")
    module.bias = nn.Parameter(weight.new_zeros(len(weight)), weight.requires_grad)
