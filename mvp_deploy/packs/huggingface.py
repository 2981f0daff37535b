"""A Hugging Face repository: a model card, and the bundle as it is in bundle/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing, InputError, first_line
from mvp_deploy.benchmark.format import read_measurements
from mvp_deploy.benchmark.statistics import accuracy_interval
from mvp_deploy.bundle import SIGNATURE, ModelFile, listed
from mvp_deploy.bundle.format import DEVICES, MANIFEST
from mvp_deploy.exporters.protocol import size_of
from mvp_deploy.packs.subject import Subject, render

CARD = "README.md"
SOMETIMES = (  # files that one bundle has and another has not
    *("models/*", f"{DEVICES}/*", SIGNATURE, "measurements.json", "calibration.npz", "keep_plan.json", "example.*"),
)
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "openrail")


def fill(subject: Subject, folder: Path) -> list[str]:
    """Write README.md and bundle/, which `verify` takes for the bundle it is."""
    bundle = subject.bundle
    signed = [SIGNATURE] if (bundle.path / SIGNATURE).is_file() else []
    for name in [MANIFEST, *listed(bundle.path), *signed]:
        target = folder / "bundle" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, target)
    (folder / CARD).write_text(card(subject), encoding="utf-8")
    unknown = [] if _licence(bundle.info)[0] != "unknown" else ["the licence of the weights is not stated: fill it in"]
    return [*unknown, f"upload it with: mvp-deploy push {subject.out} USER/{subject.name}"]


def card(subject: Subject) -> str:
    """The model card: what the models are, how accurate, how fast and where, and whose weights they come from."""
    bundle, info = subject.bundle, subject.bundle.info
    times = read_measurements(bundle)
    identifier, licence = _licence(info)
    backbone = info.get("backbone", {})
    return render(
        "card.md.j2",
        name=subject.name,
        licence_id=identifier,
        licence=licence,
        weights=info.get("licence", {}).get("source") or "not stated",
        backbone=backbone.get("name") or "An image backbone",
        classes=bundle.classes,
        shown=[_line(name) for name in bundle.classes[:100]],
        models=[_model(subject, file) for file in bundle.models],
        subject=subject.file,
        accuracy=f"{subject.file.accuracy:.4f}",
        rows=[] if times is None else [_time(row) for row in times["rows"] if row.get("timing")],
        machine=None if times is None else times["environment"],
        how=json.dumps(subject.preprocessing.to_json(), sort_keys=True),
        versions=", ".join(f"{name} {version}" for name, version in sorted(info.get("versions", {}).items())),
    )


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder that was packed for hf, and give its address. huggingface_hub finds the token.

    What a bundle pushed before had and this one has not is deleted there: `verify` would find files too many.

    Raises:
        MvpError: (INPUT) it is not such a folder; (ENVIRONMENT) the hub refuses or cannot be reached.
    """
    if not (folder / CARD).is_file() or not (folder / "bundle" / MANIFEST).is_file():
        raise InputError(f"{folder} is not packed for Hugging Face: make it with `mvp-deploy pack BUNDLE --for hf`.")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise EnvironmentMissing(f"push needs huggingface_hub ({error}): pip install huggingface_hub.") from error
    hub = HfApi(library_name="mvp-deploy")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message="Upload by mvp-deploy",
            delete_patterns=[f"bundle/{name}" for name in SOMETIMES],
        )
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a repository's name: write USER/NAME ({error}).") from error
    except Exception as error:  # HTTP errors, a missing token, no network: each layer has types of its own
        reason = first_line(error)
        raise EnvironmentMissing(
            f"{repository} cannot be written ({reason}): check the network, and log in with `hf auth login`."
        ) from error
    return f"{hub.endpoint}/{repository}"


def _licence(info: Any) -> tuple[str, str]:
    """Hugging Face's word for the licence of the weights, and the licence as the bundle has it."""
    stated = str(info.get("licence", {}).get("backbone weights") or "not stated")
    if stated == "not stated":
        return "unknown", stated
    return (stated.lower() if stated.lower() in LICENCES else "other"), stated


def _model(subject: Subject, file: ModelFile) -> tuple[str, ...]:
    interval = ""
    if file.tested:
        found = accuracy_interval(file.accuracy, file.tested)
        interval = f" ({found.low:.1%} to {found.high:.1%}, {file.tested} images)"
    megabytes = size_of(subject.bundle.path / file.file) / 1e6
    return (file.file, f"{file.accuracy:.1%}{interval}", f"{file.macs / 1e6:,.1f} M", f"{megabytes:.2f} MB")


def _time(row: dict[str, Any]) -> tuple[str, ...]:
    middle = row["timing"]["median"]
    time = f"{middle['value']:.3g} ms ({middle['low']:.3g} to {middle['high']:.3g})"
    return (f"{row['model']} {row['precision']}", row["runtime"], str(row["batch"]), time)


def _line(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
