"""Which numbers make sense for what users can set, stated once: for the command line, deploy.yaml and the classes.

The greatest values are no advice; they tell a slip of the hand from a wish before hours of work.
"""

from __future__ import annotations

from dataclasses import dataclass

from mvp_deploy.base.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """From ``low`` to ``high``, both allowed; whole numbers where they are ints. ``above``: low itself is not."""

    low: float
    high: float
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies within; NaN lies nowhere, and a whole number may be longer than any float."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def require(self, name: str, value: float) -> None:
        """Raise MvpError where the value does not lie within."""
        if not self.holds(value):
            raise InputError(f"{name} must be {self}, not {value}.")

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low:g} {'and at most' if self.above else 'to'} {self.high:g}"


SEED = Bounds(0, 2**31 - 1)
FRACTION = Bounds(0.0, 1.0, above=True)  # of what is kept
SHARE = Bounds(0.0, 1.0)
ROUND_TO = Bounds(1, 4096)  # channels
ROUNDS = Bounds(1, 1000)
NEIGHBOURS = Bounds(0, 1_000_000)
STEPS = Bounds(1, 10_000_000)
TUNING_STEPS = Bounds(0, 10_000_000)  # 0: leave the model as it was made
TRAINING_BATCH = Bounds(2, 65_536)  # images; batch norms need two
LEARNING_RATE = Bounds(0.0, 100.0, above=True)
IMAGE_SIZE = Bounds(8, 8192)  # pixels
BATCH = Bounds(1, 65_536)  # images
DURATION = Bounds(0.0, 3600.0, above=True)  # seconds
THREADS = Bounds(1, 4096)
JOBS = Bounds(1, 1024)
POINTS = Bounds(0.0, 100.0)  # of accuracy
REPEATS = Bounds(1, 1000)
TOP = Bounds(1, 1_000_000)
LIMIT = Bounds(2, 1_000_000_000)  # images of each class
OPSET = Bounds(13, 100)
WORKSPACE = Bounds(1, 10_000_000)  # MiB
LEVEL = Bounds(0, 5)
CPUS = Bounds(0.0, 4096.0, above=True)
GPUS = Bounds(0.0, 1024.0)

DEVICE = r"^(auto|cpu|cuda(:\d{1,3})?)$"  # how a device is written; whether the machine has it is found when used
