"""One RUN on disk: a task's pruned and unpruned models, and how they came about."""

from mvp_deploy.runs.run import Run, load, prune_task

__all__ = ["Run", "load", "prune_task"]
