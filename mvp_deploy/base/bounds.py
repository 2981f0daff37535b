"""Which numbers make sense for what users can set, stated once: for the command line, deploy.yaml and the classes.

The greatest values are not advice: they catch typing mistakes before hours of work.
"""

from mvp_deploy.exporters.fields import Within

SEED = Within(0, 2**31 - 1)
FRACTION = Within(0.0, 1.0, above=True)  # of what is kept
SHARE = Within(0.0, 1.0)
ROUND_TO = Within(1, 4096)  # channels
ROUNDS = Within(1, 1000)
NEIGHBOURS = Within(0, 1_000_000)
STEPS = Within(1, 10_000_000)
TUNING_STEPS = Within(0, 10_000_000)  # 0: leave the model as it was made
TRAINING_BATCH = Within(2, 65_536)  # images; batch norms need two
LEARNING_RATE = Within(0.0, 100.0, above=True)
IMAGE_SIZE = Within(8, 8192)  # pixels
BATCH = Within(1, 65_536)  # images
DURATION = Within(0.0, 3600.0, above=True)  # seconds
PORT = Within(1, 65_535)
THREADS = Within(1, 4096)
JOBS = Within(1, 1024)
POINTS = Within(0.0, 100.0)  # of accuracy
VARIANTS = Within(6, 64)  # of a profile's widths
REPEATS = Within(1, 1000)
TOP = Within(1, 1_000_000)
LIMIT = Within(2, 1_000_000_000)  # images of each class
OPSET = Within(13, 100)
WORKSPACE = Within(1, 10_000_000)  # MiB
LEVEL = Within(0, 5)
CPUS = Within(0.0, 4096.0, above=True)
GPUS = Within(0.0, 1024.0)

DEVICE = r"^(auto|cpu|cuda(:\d{1,3})?)$"  # how a device is written; whether the machine has it is found when used
