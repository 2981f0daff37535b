"""The pretrained backbone that every task starts from, and its weights."""

from mvp_deploy.backbones.backbone import Backbone, build, create
from mvp_deploy.backbones.timm_import import timm

__all__ = ["Backbone", "build", "create", "timm"]
