"""New biases: where a layer has none and no batch norm follows, re-solving has a constant to put somewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from mvp_deploy.pruning.linear import SIGNATURES, LinearLayer, linear_layers
from mvp_deploy.structure.bind import bound
from mvp_deploy.structure.graph import TracedModel

WEIGHT, BIAS = ".weight", ".bias"


def give_biases(
    model: nn.Module, layers: Mapping[str, LinearLayer], names: Collection[str], example: tuple[Tensor, ...]
) -> Mapping[str, LinearLayer]:
    """Give layers a bias of zeros, in place, where they have nowhere to put a constant.

    A module that computes without its ``bias`` stays without.

    Args:
        layers: of ``model``, by their weights' names. names: of those that may get one.

    Returns:
        The layers of ``model`` as they are then.
    """
    bare = [name for name in names if layers[name].bias is None and layers[name].norm is None]
    given = [name for name in bare if _give(model, name)]
    if not given:
        return layers
    found = linear_layers(model, example)
    for name in given:
        if found[name].bias is None:
            model.get_submodule(name.removesuffix(WEIGHT)).register_parameter("bias", None)
    return found


def fit_biases(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``model`` the new biases that are in ``state``, so that it can be loaded."""
    for name in state:
        if name.endswith(BIAS):
            _give(model, name.removesuffix(BIAS) + WEIGHT)


def _give(model: nn.Module, weight: str) -> bool:
    """Give the linear layer or convolution with that weight a bias of zeros; False where it has one or takes none."""
    path = weight.removesuffix(WEIGHT)
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    if not weight.endswith(WEIGHT) or getattr(module, "bias", None) is not None:
        return False
    if isinstance(model, TracedModel):
        takes = _record(model, weight, f"{path}{BIAS}")
    else:
        takes = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    if takes:
        matrix = module.get_parameter("weight")
        module.bias = nn.Parameter(matrix.new_zeros(len(matrix)), matrix.requires_grad)
    return takes


def _record(program: TracedModel, weight: str, bias: str) -> bool:
    """Let the call that uses parameter ``weight`` add parameter ``bias``; False where no call is without a bias."""
    for call in program.graph.nodes:
        if getattr(call.target, "__name__", "") not in SIGNATURES:
            continue
        (x, used, *rest), keywords = bound(call.target, call.args, call.kwargs)
        if used.target == weight and rest[:1] in ([], [None]):
            with program.graph.inserting_before(call):
                added = program.graph.create_node("get_attr", bias)
            call.args, call.kwargs = (x, used, added, *rest[1:]), keywords
            program.recompile()
            return True
    return False
