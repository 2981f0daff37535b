"""Two timm nets of a size fit for 32-pixel images, registered so that everything takes them by name."""

from __future__ import annotations

from typing import Any

from mvp_deploy import backbones

backbones.timm()

from timm.models import ResNet, VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model  # noqa: E402
from timm.models.resnet import BasicBlock  # noqa: E402

_COMMON = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "num_classes": 1000,
    "interpolation": "bicubic",
}
default_cfgs = generate_default_cfgs(
    {
        "study_resnet.untrained": _COMMON | {"first_conv": "conv1", "classifier": "fc", "pool_size": (1, 1)},
        "study_vit.untrained": _COMMON
        | {"first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True},
    }
)


@register_model
def study_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """A ResNet-18 of half width: 32 to 256 channels."""
    shape = {"block": BasicBlock, "layers": (2, 2, 2, 2), "channels": (32, 64, 128, 256)}
    return build_model_with_cfg(ResNet, "study_resnet", pretrained, **shape, **kwargs)


@register_model
def study_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A vision transformer of four blocks, width 64, four heads, 64 patches of 4 pixels."""
    shape = {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
    return build_model_with_cfg(VisionTransformer, "study_vit", pretrained, **shape, **kwargs)
