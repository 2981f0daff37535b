"""mvp-deploy profile: what a backbone's layers take on this machine, at several widths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import BATCH, IMAGE_SIZE, THREADS, VARIANTS
from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._common import Console, output_options, resumes
from mvp_deploy.cli._on import Fleet, forwarded, given, on_options
from mvp_deploy.cli._types import PATH, PRECISIONS, Device, Number

if TYPE_CHECKING:
    from mvp_deploy.latency.format import Conditions, Form, Precision, Profile, Subject
    from mvp_deploy.latency.unseen import Unseen

PROFILE = ".json"
PROFILING = ("image_size", "runtime", "device", "precision", "threads", "batch", "variants", "on")  # options


@click.command()
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option("--out", required=True, type=PATH,
              help="The profile to write (.json), or the pieces for a device (.zip).")  # fmt: skip
@click.option("--image-size", type=Number(IMAGE_SIZE), help="Height and width.  [default: the backbone's own]")
@click.option("--runtime", default="onnxruntime", show_default=True, help="onnxruntime, openvino or tensorrt.")
@click.option("--device", default="auto", type=Device(),
              help="cpu, cuda or cuda:N.  [default: cuda for tensorrt, else cpu]")  # fmt: skip
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS))
@click.option("--threads", default=1, show_default=True, type=Number(THREADS), help="CPU threads of the runtime.")
@click.option("--batch", default=1, show_default=True, type=Number(BATCH), help="Images in a batch.")
@click.option("--variants", type=Number(VARIANTS), help="Choices of widths in the pieces.  [default: 16; tensorrt: 10]")
@on_options
@output_options
@resumes
def command(
    subjects: tuple[str, ...],
    out: Path,
    image_size: int | None,
    runtime: str,
    device: str,
    precision: Precision,
    threads: int,
    batch: int,
    variants: int | None,
    fleet: Fleet | None,
    console: Console,
) -> None:
    """Measure what SUBJECT takes in milliseconds, layer by layer, for --latency to prune by.

    SUBJECT is a timm backbone, or a file of pieces (.zip) that a workstation made of one. Whole models of several
    widths are timed, and within them each layer with all that the runtime fuses with it. Killed and called again, it
    goes on where it stopped. On a device without torch, time the pieces: the profile then prunes on the workstation.
    --on does all of that: makes the pieces here, times them on the devices, and writes OUT here (for several devices
    OUT-NAME.json each).

    Several profiles (.json) of one backbone on one machine, runtime and precision become one: times count relative to
    each profile's unpruned model, and widths that several have timed get the median.

    \b
    Examples:
      mvp-deploy profile resnet18 --image-size 128 --out resnet18.json
      mvp-deploy profile resnet18 --image-size 128 --out pieces.zip      on the workstation
      mvp-deploy profile pieces.zip --threads 4 --out board.json         on the device
      mvp-deploy profile resnet18 --image-size 128 --out board.json --on pi5
      mvp-deploy profile resnet18 --runtime tensorrt --precision fp16 --out orin.json --on orin
      mvp-deploy profile monday.json tuesday.json --out board.json       one profile of several
    """
    from mvp_deploy.latency import files, pack
    from mvp_deploy.latency.format import Conditions
    from mvp_deploy.latency.unseen import unseen

    pack.check_suffix(out)
    if len(subjects) > 1 or subjects[0].endswith(PROFILE):
        _merge(subjects, out, console)
        return
    (subject,) = subjects
    if device == "auto":
        device = "cuda" if runtime == "tensorrt" else "cpu"
    conditions = Conditions(runtime, device, threads, batch)
    there = subject.endswith(pack.SUFFIX)
    if there and out.suffix == pack.SUFFIX:
        raise InputError(f"{subject} holds pieces already: time them with --out PROFILE.json.")
    source = _pieces(Path(subject)) if there else _maker(subject, image_size, precision, variants, console)
    if fleet is not None:
        _on_devices(source, out, conditions, fleet, console)
        return
    start = time.monotonic()
    if out.suffix == pack.SUFFIX and not isinstance(source, Path):
        made = files.make_pieces(out, source, conditions)
        seconds = time.monotonic() - start
        told = {"pieces": str(out), "variants": len(made.variants), "layers": len(made.layers)}
        console.result(told | {"seconds": round(seconds, 1)})
        size = out.stat().st_size / 1e6
        console.show(f"{out}: {len(made.variants)} variants of {subject}, {size:.1f} MB, in {seconds:.0f} s.")
        console.next(f"profile {out} --out PROFILE.json, on the device")
        return
    found = files.profile(out, conditions, source=source, reporter=console)
    seconds = time.monotonic() - start
    errors = unseen(found)
    console.result(_told(found, out, errors) | {"seconds": round(seconds, 1)})
    console.show(
        f"{found}: {found.full_ms:.3f} ms unpruned, {min(run.ms for run in found.runs):.3f} ms at its smallest here; "
        f"{len(found.layers)} layers, {len(found.kernels)} kinds, {len(found.runs)} widths in {seconds:.0f} s -> {out}"
    )
    _show_unseen(errors, console)
    console.next(_next("BACKBONE" if there else subject, out))


def _pieces(file: Path) -> Path:
    """A file of pieces, if it is of what is asked for: they decide, and not the options."""
    from mvp_deploy.latency import pack

    found = pack.subject_of(file)
    made = {"image_size": found.input_size[-1], "precision": found.precision, "variants": len(found.variants)}
    for name, have in made.items():
        if given(name) not in (None, str(have)):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{file} holds pieces made with {option} {have}: leave it out, or make others.")
    return file


def _merge(subjects: Sequence[str], out: Path, console: Console) -> None:
    """Write one profile of several."""
    from mvp_deploy.latency import files
    from mvp_deploy.latency.merge import merge
    from mvp_deploy.latency.unseen import unseen

    for subject in subjects:
        if not subject.endswith(PROFILE):
            raise InputError(
                f"{subject} is not a profile ({PROFILE}): only profiles become one, and a backbone or its pieces are "
                "profiled alone."
            )
    for name in PROFILING:
        if given(name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} says how a backbone is profiled, and {subjects[0]} is a profile already: "
                "leave it out."
            )
    sources = {Path(subject).resolve() for subject in subjects}
    if len(sources) < len(subjects):
        raise InputError("a profile is named twice: name each once, since what was timed once counts once.")
    if out.suffix != PROFILE or out.resolve() in sources:
        raise InputError(f"--out {out} must end in {PROFILE}, and be none of the profiles that are merged.")
    parts = {subject: files.read(Path(subject)) for subject in subjects}
    found = merge(parts)
    files.write(out, found)
    for remark in files.remarks(found):
        console.warn(remark)
    unpruned = {name: part.full_ms for name, part in parts.items()}
    least, most = min(unpruned.values()), max(unpruned.values())
    errors = unseen(found)
    console.result(_told(found, out, errors) | {"merged": unpruned, "apart": most / least - 1})
    console.show(
        f"{found}: {len(parts)} profiles ({', '.join(parts)}) are one. Unpruned they took {least:.3f} to {most:.3f} ms "
        f"({most / least - 1:.1%} apart), and it takes their median, {found.full_ms:.3f}; {len(found.runs)} widths of "
        f"{' + '.join(str(len(part.runs)) for part in parts.values())} -> {out}"
    )
    _show_unseen(errors, console)
    console.next(_next("BACKBONE", out))


def _told(found: Profile, out: Path, errors: Unseen | None) -> dict[str, object]:
    return {
        "profile": str(out),
        "of": str(found),
        "full_ms": found.full_ms,
        "smallest_ms": min(run.ms for run in found.runs),
        "kernels": len(found.kernels),
        "noise": found.noise,
        "stable": found.stable,
        "loud": list(found.loud),
        "unseen": None if errors is None else asdict(errors),
    }


def _show_unseen(errors: Unseen | None, console: Console) -> None:
    if errors is not None:
        console.show(f"It predicts models that it has not seen {errors}.")


def _next(backbone: str, profile: Path) -> str:
    return f"prune TASK --backbone {backbone} --pretrained --speed-up 2x --on {profile} --out RUN"


def _on_devices(
    source: Path | Callable[[Path, Form], Subject],
    out: Path,
    conditions: Conditions,
    fleet: Fleet,
    console: Console,
) -> None:
    from tempfile import TemporaryDirectory

    from mvp_deploy.latency import files, pack
    from mvp_deploy.latency.unseen import unseen
    from mvp_deploy.remote.profile import profile

    if out.suffix == pack.SUFFIX:
        raise InputError(f"--on gives a profile, not pieces: name it as --out {out.with_suffix('.json')}.")
    options = forwarded(but=("out", "image_size", "precision", "variants"))
    with TemporaryDirectory() as folder:
        if isinstance(source, Path):
            pieces = source
        else:
            pieces = Path(folder, "pieces.zip")
            files.make_pieces(pieces, source, conditions)
        alone = len(fleet.devices) == 1
        names = {name: out if alone else out.with_stem(f"{out.stem}-{name}") for name in fleet.devices}
        came_to = fleet.each(lambda name, device: profile(name, device, pieces, options, names[name], console), console)
    for name, told in came_to.results.items():
        console.show(f"{name}: {told['full_ms']:.3f} ms unpruned, in {told['seconds']:.0f} s there -> {names[name]}")
        _show_unseen(unseen(files.read(names[name])), console)
    console.result({"devices": came_to.results, "missing": came_to.gaps})
    came_to.end()
    console.next(_next("BACKBONE", next(iter(names.values()))))


def _maker(
    name: str, image_size: int | None, precision: Precision, variants: int | None, console: Console
) -> Callable[[Path, Form], Subject]:
    from mvp_deploy import backbones
    from mvp_deploy.latency import files

    backbone, _ = backbones.create(name, image_size=image_size)
    return files.maker(name, backbone, precision, console, variants)
