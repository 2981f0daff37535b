"""The deployable folder: models, labels, preprocessing, measurements, checksums."""

from mvp_deploy.bundle.format import (
    BUILT,
    DEVICES,
    EXTRA,
    MANIFEST,
    MAX_SAMPLES,
    SIGNATURE,
    Bundle,
    ModelFile,
    digest,
    inside,
    is_bundle,
    listed,
    read,
    uncovered,
    untried,
    verify,
    write_arrays,
    write_json,
)
from mvp_deploy.bundle.write import add, own_names, withdraw, writing

__all__ = [
    "BUILT", "DEVICES", "EXTRA", "MANIFEST", "MAX_SAMPLES", "SIGNATURE", "Bundle", "ModelFile", "add", "digest",
    "inside", "is_bundle", "listed", "own_names", "read", "uncovered", "untried", "verify", "withdraw",
    "write_arrays", "write_json", "writing",
]  # fmt: skip
