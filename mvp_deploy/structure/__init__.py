"""What can be removed from a model, and removing it exactly. Knows torch operators, nothing of tasks or of timm."""

from mvp_deploy.structure.analysis import analyze
from mvp_deploy.structure.axes import fixed
from mvp_deploy.structure.cut import gather, scatter
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.prune import prune
from mvp_deploy.structure.rules.registry import rule
from mvp_deploy.structure.silence import silence
from mvp_deploy.structure.structure import Cost, Frozen, Member, Structure, UnitGroup

__all__ = [
    "Cost", "Frozen", "KeepPlan", "Member", "Structure", "UnitGroup", "analyze", "fixed", "gather", "prune", "rule",
    "scatter", "silence",
]  # fmt: skip
