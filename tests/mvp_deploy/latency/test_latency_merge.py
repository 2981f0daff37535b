"""Profiles of other hours and other widths become one: the same in any order, relative to their unpruned models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes.profiles import blocks_of, chain, profile_by, structure_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Within
from mvp_deploy.cli import main
from mvp_deploy.latency import files
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Layer, Profile
from mvp_deploy.latency.merge import merge
from mvp_deploy.latency.model import fit
from mvp_deploy.latency.unseen import unseen

MODEL = chain(64, 48, 80)
QUIET = replace(profile_by(MODEL, structure_of(MODEL), blocks_of(1), precision="int8"), float32_ms=9.0)
ALL = range(len(QUIET.runs))


def taken(of: Profile, slow: float = 1.0, keep: Sequence[int] = ALL, spread: float = 0.0, seed: int = 0) -> Profile:
    """The same machine when it was ``slow``, timed at these of the widths, each off by a random share of ``spread``."""
    rng = np.random.default_rng(seed)
    count, off = len(of.runs), [slow, *(slow * (1 + spread * rng.uniform(-1, 1, len(of.runs) - 1)))]
    kernels = []
    for kernel in of.kernels:
        places = [first + number for first in range(0, len(kernel.samples), count) for number in keep]
        samples = [replace(kernel.samples[n], ms=kernel.samples[n].ms * off[n % count]) for n in places]
        kernels.append(replace(kernel, samples=tuple(samples)))
    runs = tuple(replace(of.runs[number], ms=of.runs[number].ms * off[number]) for number in keep)
    return replace(of, kernels=tuple(kernels), runs=runs, float32_ms=of.float32_ms and of.float32_ms * slow)


def one_kernel(profile: Profile) -> Profile:
    """The same with the middle two layers as of one kind, one's samples after the other's."""
    first, second, third, last = profile.kernels
    both = replace(second, samples=second.samples + third.samples)
    layers = tuple(Layer(layer.weight, min(number, 1)) for number, layer in enumerate(profile.layers[:3]))
    return replace(profile, kernels=(first, both, last), layers=(*layers, Layer(profile.layers[3].weight, 2)))


def numbers(profile: Profile) -> list[float]:
    samples = [sample.ms for kernel in profile.kernels for sample in kernel.samples]
    return [*samples, *(run.ms for run in profile.runs), profile.noise, profile.float32_ms or 0.0]


def without_numbers(profile: Profile) -> Profile:
    samples = [tuple(replace(sample, ms=1.0) for sample in kernel.samples) for kernel in profile.kernels]
    kernels = tuple(replace(kernel, samples=each) for kernel, each in zip(profile.kernels, samples, strict=True))
    runs = tuple(replace(run, ms=1.0) for run in profile.runs)
    return replace(profile, kernels=kernels, runs=runs, noise=0.0, float32_ms=None)


@pytest.mark.parametrize(
    "profile",
    [
        QUIET,
        one_kernel(QUIET),
        taken(QUIET, keep=[0, 5, 2], spread=0.1),
        replace(QUIET, noise=0.05, stable=False, loud=("z", "a"), left_out=3),
        taken(QUIET, keep=[0, 1, 0, 1, 1]),  # drawn twice
    ],
    ids=["quiet", "two layers of one kind", "few", "noisy", "the same widths twice"],
)
def test_a_profile_merged_with_itself_is_itself(profile: Profile) -> None:
    for found in (merge({"one": profile, "two": profile}), merge(dict(zip("abc", [profile] * 3, strict=True)))):
        assert without_numbers(found) == without_numbers(profile)
        assert numbers(found) == pytest.approx(numbers(profile), rel=1e-12)


WIDTHS = st.lists(st.integers(1, max(ALL)), min_size=1, max_size=6).map(lambda others: (0, *others))
PART = st.builds(
    lambda slow, keep, seed, noise, left_out, loud: replace(
        taken(one_kernel(QUIET), slow, keep, 0.2, seed),
        noise=noise, stable=noise < 0.02, left_out=left_out, loud=tuple(loud) if noise >= 0.02 else (),
    ),
    st.floats(0.5, 2), WIDTHS, st.integers(0, 9), st.sampled_from([0.0, 0.01, 0.02, 0.3]), st.integers(0, 3),
    st.lists(st.sampled_from("abc"), unique=True),
)  # fmt: skip


@given(st.lists(PART, min_size=2, max_size=4), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_does_not_matter(parts: list[Profile], random) -> None:
    named = list(enumerate(map(str, range(len(parts)))))
    found = merge({name: parts[number] for number, name in named})
    random.shuffle(named)
    assert merge({name: parts[number] for number, name in named}) == found
    assert found.runs[0].shapes == QUIET.runs[0].shapes
    assert {run.shapes for run in found.runs} == {run.shapes for part in parts for run in part.runs}
    assert found.noise >= max(part.noise for part in parts)
    assert found.stable or found.noise > 0.02 or not all(part.stable for part in parts)


def test_each_profile_counts_from_its_own_unpruned_model() -> None:
    """Slow days differ from others by a factor, which leaves nothing behind; their median is the level."""
    days = [taken(QUIET, 1.0, [0, 1, 2, 3]), taken(QUIET, 3.0, [0, 3, 4, 5]), taken(QUIET, 1.2, [0, *range(5, 16)])]
    found = merge(dict(zip("abc", days, strict=True)))
    wanted = taken(QUIET, 1.2)
    assert without_numbers(found).kernels[0].kind == QUIET.kernels[0].kind
    by_shape = {run.shapes: run.ms for run in found.runs}
    assert by_shape == pytest.approx({run.shapes: run.ms for run in wanted.runs})
    assert found.full_ms == wanted.full_ms
    assert found.float32_ms == pytest.approx(1.2 * 9.0)
    assert (found.noise, found.stable) == (pytest.approx(0.0), True)
    assert fit(found).layer(1, 40, 40) == pytest.approx(fit(wanted).layer(1, 40, 40), rel=1e-6)


def test_profiles_that_disagree_are_noisy_and_what_one_left_out_another_may_have() -> None:
    odd, whole = taken(QUIET, spread=0.5, seed=1), taken(QUIET)
    found = merge({"odd": odd, "whole": whole})
    assert found.noise > 0.02
    assert not found.stable
    assert any("not quiet: times of one model differ" in remark for remark in files.remarks(found))
    few = replace(taken(QUIET, keep=ALL[:-2]), left_out=2)
    assert merge({"few": few, "whole": whole}).left_out == 0
    assert merge({"few": few, "fewer": replace(taken(QUIET, keep=ALL[:-3]), left_out=3)}).left_out == 2


def test_merged_profiles_predict_better_than_each() -> None:
    days = {name: taken(QUIET, spread=0.2, seed=seed) for seed, name in enumerate("abcdefg")}
    alone = [unseen(day) for day in days.values()]
    found = unseen(merge(days))
    assert found is not None
    assert found.median < min(each.median for each in alone if each)


SPOILT = {
    "backbone": replace(QUIET, backbone="other"),
    "layout": replace(QUIET, layout="1" * 64),
    "images of 3x8x8": replace(QUIET, input_size=(3, 16, 16)),
    "precision int8, and b.json has fp16": replace(QUIET, precision="fp16"),
    "runtime onnxruntime, and b.json has openvino": replace(
        QUIET, conditions=replace(QUIET.conditions, runtime="openvino")
    ),
    "threads 1, and b.json has 4": replace(QUIET, conditions=replace(QUIET.conditions, threads=4)),
    "batch": replace(QUIET, conditions=replace(QUIET.conditions, batch=2)),
    "device": replace(QUIET, conditions=replace(QUIET.conditions, device="cuda")),
    "runtime version 1.0, and b.json has 2.0": replace(QUIET, version="2.0"),
    "CPU none, and b.json has new": replace(QUIET, machine=replace(QUIET.machine, cpu="new")),
    "cores": replace(QUIET, machine=replace(QUIET.machine, cores=2)),
    "GPU none, and b.json has Orin": replace(QUIET, machine=replace(QUIET.machine, gpu="Orin")),
    r"layer 1 0\.weight of 64x3.* and b.json has first": replace(
        QUIET, layers=(Layer("first", 0), *QUIET.layers[1:])
    ),
    r"layer 4 .*\(8.weight\), and": replace(
        QUIET, kernels=(*QUIET.kernels[:3], replace(QUIET.kernels[3], kind="Gemm"))
    ),
    "layer 3 4.weight of 80x48, kernel 2": one_kernel(QUIET),
    "layer 1 0.weight of 64x3, .* of": taken(QUIET, keep=[1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("told", SPOILT)
def test_what_is_not_alike_is_refused_by_its_first_difference(told: str) -> None:
    with pytest.raises(InputError, match=f"^a.json has {told}"):
        merge({"a.json": QUIET, "b.json": SPOILT[told]})


def test_one_profile_or_too_many_widths_are_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="name two or more"):
        merge({"a": QUIET})
    monkeypatch.setattr("mvp_deploy.latency.merge.RUNS", Within(2, 15))
    with pytest.raises(InputError, match="they have 16 widths, and a profile at most 15"):
        merge({"a": QUIET, "b": QUIET})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files.write(Path("monday.json"), taken(QUIET, 1.0, ALL[:9]))
    files.write(Path("tuesday.json"), taken(QUIET, 1.5, [0, *ALL[7:]]))
    return tmp_path


def test_the_command_says_what_was_merged_and_writes_a_profile(folder: Path) -> None:
    arguments = ["profile", "monday.json", "tuesday.json", "--out", "board.json"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    found = files.read(folder / "board.json")
    ms = QUIET.full_ms
    assert f"2 profiles (monday.json, tuesday.json) are one. Unpruned they took {ms:.3f} to" in shown.stdout
    assert "(50.0% apart)" in shown.stdout
    assert f"their median, {1.25 * ms:.3f}; 16 widths of 9 + 10 -> board.json" in shown.stdout
    assert f"It predicts models that it has not seen {unseen(found)}." in shown.stdout
    assert "--on board.json" in shown.stdout
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert told["merged"] == pytest.approx({"monday.json": ms, "tuesday.json": 1.5 * ms})
    assert told["apart"] == pytest.approx(0.5)
    assert (told["full_ms"], told["unseen"]) == (found.full_ms, asdict(unseen(found)))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["monday.json"], "merged with nothing"),
        (["resnet18", "tuesday.json"], "resnet18 is not a profile"),
        (["monday.json", "pieces.zip"], "pieces.zip is not a profile"),
        (["resnet18", "resnet50"], "only profiles become one"),
        (["monday.json", "./monday.json"], "named twice"),
        (["monday.json", "nothing.json"], "nothing.json does not exist"),
        (["monday.json", "tuesday.json", "--threads", "4"], "--threads says how a backbone is profiled"),
        (["monday.json", "tuesday.json", "--on", "pi"], "--on says how"),
        (["monday.json", "tuesday.json", "--out", "tuesday.json"], "none of the profiles"),
        (["monday.json", "tuesday.json", "--out", "board.zip"], "must end in .json"),
    ],
)
def test_wrong_usage_is_a_sentence(folder: Path, arguments: list[str], told: str) -> None:
    (folder / "devices.yaml").write_text("pi: {address: pi}\n")
    result = CliRunner().invoke(main, ["profile", "--out", "board.json", *arguments])
    assert result.exit_code == 2
    assert told in result.output
    assert not (folder / "board.json").exists()


def test_merging_needs_no_torch_and_plans_go_by_it(folder: Path) -> None:
    script = """
import sys
for name in ("torch", "timm", "onnx", "onnxruntime", "pydantic", "rich", "scipy"): sys.modules[name] = None
from mvp_deploy.base.formats import Within
from mvp_deploy.cli import main
main(["profile", "monday.json", "tuesday.json", "--out", "board.json"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    structure, found = structure_of(MODEL), files.read(folder / "board.json")
    assert len(found.runs) == 16
    whole = {group.name: group.size for group in structure.groups}
    assert Milliseconds(structure, found).total(whole) == pytest.approx(found.full_ms, rel=0.01)
