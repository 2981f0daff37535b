"""What can be removed from a model, and removing it exactly. Knows torch operators, nothing of tasks or of timm."""

from mvp_deploy.structure.analysis import Cost, Frozen, Member, Structure, UnitGroup, analyze
from mvp_deploy.structure.plan import KeepPlan

__all__ = ["Cost", "Frozen", "KeepPlan", "Member", "Structure", "UnitGroup", "analyze"]
