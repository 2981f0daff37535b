"""One RUN on disk: a task's pruned and unpruned models, and how they came about."""

from mvp_deploy.runs.run import Pruning, Run, load, prune_task

__all__ = ["Pruning", "Run", "load", "prune_task"]
