"""The deployable folder: models, labels, preprocessing, measurements, checksums."""

from mvp_deploy.bundle.format import (
    BUILT,
    MANIFEST,
    MAX_SAMPLES,
    SIGNATURE,
    Bundle,
    ModelFile,
    inside,
    is_bundle,
    read,
    verify,
    write_arrays,
    write_json,
)
from mvp_deploy.bundle.write import own_names, withdraw, writing

__all__ = [
    "BUILT",
    "MANIFEST",
    "MAX_SAMPLES",
    "SIGNATURE",
    "Bundle",
    "ModelFile",
    "inside",
    "is_bundle",
    "own_names",
    "read",
    "verify",
    "withdraw",
    "write_arrays",
    "write_json",
    "writing",
]
