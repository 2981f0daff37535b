"""run.json as a run writes it, without one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mvp_deploy.backbones import Backbone
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import Round, Schedule
from mvp_deploy.tasks import Preprocessing
from mvp_deploy.training import TrainConfig

PREPROCESSING = Preprocessing((3, 32, 32), "bicubic", 0.95, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BACKBONE = Backbone("test_resnet", 32, "random", "0" * 64, PREPROCESSING, None)
DETAILS = {
    "budget": asdict(Budget(0.3, "units")),
    "schedule": asdict(Schedule()),
    "training": asdict(TrainConfig()),
    "data": "0" * 64,
    "versions": {"torch": "2.9"},
    "rounds": [asdict(Round(0.5, 0.5, 10, 100, 0.8, 0.9, 5, 1.0))],
}  # of a bank's task
METRICS = {"accuracy": 0.9, "units": 0.3, "params": 10, "macs": 100, "steps": 5, "seconds": 1.0}


def info(seed: int = 0) -> dict[str, Any]:
    """All of run.json but for what writing it adds."""
    return {
        "inputs": "key",
        "task": "digits#0,1",
        "source": "digits#0,1",
        "data": "0" * 64,
        "classes": ["0", "1"],
        "images": {"train": 80, "test": 20},
        "backbone": BACKBONE.to_json(),
        "preprocessing": PREPROCESSING.to_json(),
        "metrics": {"pruned": METRICS | {"accuracy_before_tuning": 0.5, "exactness": 1e-7}, "unpruned": METRICS},
        "groups": [{"name": "g", "kind": "channel", "size": 8, "kept": 4, "unanimity": 0.5}],
        "votes": {
            "voters": [{"task": "t", "similarity": -0.5, "weight": 1.0}],
            "own": 0.0,
            "initial_weights": "average",
        },
        "recipe": {"name": "default", "votes": "mask", "neighbours": 20},
        "budget": {"fraction": 0.3, "of": "units", "round_to": 8},
        "training": asdict(TrainConfig()),
        "seed": seed,
        "warnings": [],
        "versions": {"torch": "2.9"},
    }
