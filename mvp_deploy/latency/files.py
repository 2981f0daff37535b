"""From a backbone or its pieces to a profile on disk, going on after a kill; and reading one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mvp_deploy.base.environment import cpu_name
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import locked, write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency import pack, pieces
from mvp_deploy.latency.format import CURE, FORMAT, Conditions, Form, Precision, Profile, Subject
from mvp_deploy.latency.measure import NOISE, measure, runtime_version
from mvp_deploy.latency.unseen import doubts

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone


def read(path: Path) -> Profile:
    """A profile's file. Raises MvpError if it is damaged or not there."""
    return read_json(path, Profile, cure=CURE, versions=(FORMAT,))


def write(path: Path, found: Profile) -> None:
    """Write a profile's file, whole or not at all."""
    write_text(path, json.dumps(asdict(found)) + "\n")


def parts_of(out: Path) -> Path:
    """Where the pieces of an unfinished profile lie."""
    return out.with_name(f"{out.name}.parts")


def profile(
    out: Path,
    conditions: Conditions,
    *,
    source: Path | Callable[[Path, Form], Subject],
    reporter: Reporter,
) -> Profile:
    """Time a backbone and write its profile; called again after a kill, it goes on.

    Args:
        source: a file of pieces, or what makes them: called with a folder and what they are for.

    Raises:
        MvpError: the runtime is missing or tells no times of its kernels, or the pieces are damaged.
    """
    runtime_version(conditions)  # before minutes of work
    folder = parts_of(out)
    with locked(folder.with_suffix(".lock"), f"another process is writing {out}: wait for it."):
        if isinstance(source, Path):
            pack.unpack(source, folder)
        else:
            source(folder, conditions.form)
        found = measure(folder, conditions, reporter=reporter)
        write(out, found)
        pack.remove(folder)
    for remark in remarks(found):
        reporter.warn(remark)
    return found


def maker(
    name: str, backbone: Backbone, precision: Precision, reporter: Reporter, variants: int | None = None
) -> Callable[[Path, Form], Subject]:
    """What `profile` makes the pieces of ``backbone`` with, which the profile calls ``name``."""

    def make(folder: Path, form: Form) -> Subject:
        from mvp_deploy import backbones

        build, size = partial(backbones.build, backbone, None), backbone.preprocessing.input_size
        return pieces.make(
            name, build, size, folder, precision=precision, form=form, variants=variants, reporter=reporter
        )

    return make


def make_pieces(out: Path, make: Callable[[Path, Form], Subject], conditions: Conditions) -> Subject:
    """Write the file of pieces that a device times."""
    folder = parts_of(out)
    with locked(folder.with_suffix(".lock"), f"another process is writing {out}: wait for it."):
        subject = make(folder, conditions.form)
        pack.pack(folder, subject, out)
        pack.remove(folder)
    return subject


def remarks(found: Profile) -> Iterator[str]:
    """What to know of a profile that was taken on a machine that was not quiet."""
    if found.left_out:
        yield (
            f"{found.left_out} of the {found.left_out + len(found.runs)} models that a profile is fitted to were "
            "disturbed each time they were timed, and are left out."
        )
    if not found.stable:
        who = f" ({', '.join(found.loud)})" if found.loud else ""
        yield (
            f"the machine was not quiet{who}: times of one model differ by {found.noise:.1%}, more than {NOISE:.0%}. "
            "Plans made with this profile may miss their time; profile again when nothing else runs."
        )


def say_conditions(found: Profile, reporter: Reporter) -> None:
    """Say on what, and how, a time is met, and warn where the profile predicts badly."""
    reporter.say(f"the time is met as profiled: {found}")
    warn_of_doubts(found, reporter)


def warn_of_doubts(found: Profile, reporter: Reporter) -> None:
    """Warn where the profile predicts badly."""
    for doubt in doubts(found):
        reporter.warn(doubt)


def check_runtime(found: Profile, shipped: Collection[str], reporter: Reporter) -> None:
    """Warn where a time is met in a runtime that nothing shipped is for."""
    if found.conditions.runtime not in shipped:
        (wanted, *_) = shipped
        reporter.warn(
            f"the time is met in {found.conditions.runtime}, of which the profile is, and what ships is for "
            f"{' and '.join(shipped)}: profile the backbone with --runtime {wanted} to meet it in that."
        )


def check_shipped(found: Profile, shipped: Collection[Precision], reporter: Reporter) -> None:
    """Warn where a time is met in a precision that is not shipped."""
    if found.precision not in shipped:
        (wanted, *_) = shipped
        reporter.warn(
            f"the time is met in {found.precision}, of which the profile is, and {' and '.join(shipped)} is shipped: "
            f"profile the backbone with --precision {wanted} to meet it in that."
        )


def check_timed(found: Profile, batches: Collection[int], threads: int | None, reporter: Reporter) -> None:
    """Warn where a time is met with another batch or other threads than what is timed in the end.

    Args:
        batches: that are timed; none where nothing is.
        threads: with which; None: with the profile's. On another machine than the profile's they are not compared.
    """
    have, again = found.conditions, "of which the profile is, and"
    if batches and have.batch not in batches:
        reporter.warn(
            f"the time is met with batch {have.batch}, {again} batch {min(batches)} is timed in the end: time batch "
            f"{have.batch} as well, or profile the backbone with --batch {min(batches)}."
        )
    if batches and threads not in (None, have.threads) and found.machine.cpu == cpu_name():
        reporter.warn(
            f"the time is met with threads {have.threads}, {again} threads {threads} are timed in the end: time with "
            f"{have.threads}, or profile the backbone with --threads {threads}."
        )


def known(path: Path, reporter: Reporter) -> Profile:
    """The profile in a file, with a warning of what to know of it. Raises MvpError as `read` does."""
    found = read(path)
    for remark in remarks(found):
        reporter.warn(remark)
    return found


def profile_on(path: Path, make: Callable[[], Profile], reporter: Reporter, where: str = "this machine") -> Profile:
    """The profile at ``path``; if there is none, one is made of ``where``, which takes minutes and is said."""
    if path.exists():
        reporter.say(f"going by the profile that is there: {path}")
        return known(path, reporter)
    reporter.say(f"there is no profile {path}: {where} is profiled first, which takes some minutes.")
    start = time.monotonic()
    found = make()
    reporter.say(f"profiled in {time.monotonic() - start:.0f} s: {found} -> {path}")
    return found


def check_conditions(found: Profile, asked: Conditions) -> None:
    """Raise MvpError if a profile was taken in another runtime, with other threads or another batch than asked."""
    for name in ("runtime", "device", "threads", "batch"):
        have, want = getattr(found.conditions, name), getattr(asked, name)
        if have != want:
            raise InputError(
                f"the profile was taken with {name} {have}, and {name} {want} is asked for: profile that, or ask for "
                f"{have}."
            )


def check_version(found: Profile, version: str) -> None:
    """Raise MvpError if a profile was taken with another version of its runtime."""
    if found.version != version:
        raise InputError(
            f"the profile was taken with {found.conditions.runtime} {found.version}, and {version} is installed: "
            "profile the backbone again."
        )


def searched_by(
    path: Path,
    asked: Conditions,
    version: str,
    backbones: Collection[str],
    sizes: Collection[int],
    reporter: Reporter,
) -> Profile:
    """A profile that a search over backbones and image sizes cuts by, under these conditions.

    Raises:
        MvpError: it is of other conditions or another size, or of another ``version`` of this machine's runtime. A
            warning tells of another backbone, since only the layers can tell, and of another machine.
    """
    found = read(path)
    check_conditions(found, asked)
    size = found.input_size[-1]
    if size not in sizes:
        raise InputError(f"{path} is of images of {size} pixels: add {size} to --image-size, or leave out --on {path}.")
    if not any(name.partition(".")[0] == found.backbone.partition(".")[0] for name in backbones):
        reporter.warn(
            f"{path} is of {found.backbone}, which is not in --backbone: what has other layers is cut by MACs."
        )
    if found.machine.cpu != cpu_name():
        reporter.warn(
            f"{path} is of another machine ({found.machine.cpu}): cuts are made for that one, and timed here."
        )
    else:
        check_version(found, version)
    for remark in remarks(found):
        reporter.warn(remark)
    warn_of_doubts(found, reporter)
    return found
