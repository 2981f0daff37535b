"""Profiling: pieces of a real small net in the real runtimes, and a machine whose times are made up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from fakes.profiles import blocks_of, chain, profile_by, structure_of

from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.base.watch import Seen
from mvp_deploy.cli import main
from mvp_deploy.latency import files, measure, pack, pieces
from mvp_deploy.latency.format import Conditions, Subject, Variant
from mvp_deploy.latency.model import fit
from mvp_deploy.latency.unseen import unseen

SIZE = (3, 8, 8)
ORT = Conditions("onnxruntime")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Subject]:
    folder = tmp_path_factory.mktemp("made") / "parts"
    subject = pieces.make("chain", lambda classes: chain(16, 32), SIZE, folder, variants=6, reporter=Silent())
    return folder, subject


@pytest.fixture
def parts(made: tuple[Path, Subject], tmp_path: Path) -> Path:
    """A folder of the same pieces that a test may spoil."""
    pack.pack(*made, tmp_path / "pieces.zip")
    pack.unpack(tmp_path / "pieces.zip", tmp_path / "p.json.parts")
    return tmp_path / "p.json.parts"


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What disturbs this machine in its next turns: nothing, unless a test puts it into the list."""
    coming: list[Seen] = []

    @contextmanager
    def watched() -> Iterator[list[Seen]]:
        yield [coming.pop(0) if coming else Seen(others=0.0)]

    monkeypatch.setattr(measure, "watched", watched)
    monkeypatch.setattr(measure, "cool_down", lambda first: None)
    return coming


def look(path: Path, variant: Variant, conditions: Conditions, subject: object) -> tuple[float, tuple[float, ...]]:
    """A machine that computes in eights, without noise."""
    layers = tuple(blocks_of(8)(*shape) for shape in variant.shapes)
    return 0.1 + sum(layers), layers


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_each_layer_of_a_real_runtime_gets_its_kernels(made: tuple[Path, Subject], runtime: str) -> None:
    pytest.importorskip(runtime)
    variant = Variant(**json.loads((made[0] / "00.json").read_text(encoding="utf-8")))
    whole, layers = measure.timed(made[0] / "00.onnx", variant, Conditions(runtime), made[1])
    assert whole > 0
    assert len(layers) == len(made[1].layers) == 3
    assert all(ms > 0 for ms in layers)


def test_variants_differ_in_widths_and_the_first_is_whole(made: tuple[Path, Subject]) -> None:
    variants = [json.loads((made[0] / f"{n:02}.json").read_text(encoding="utf-8"))["shapes"] for n in range(6)]
    assert variants[0] == [[16, 3], [32, 16], [4, 32]]
    assert variants[1] == [[4, 3], [8, 4], [4, 8]]


def test_a_kernel_belongs_to_the_longest_name_it_begins_with_or_follows() -> None:
    labels = {"act": 0, "act_1": 1, "fc": 2}
    kernels = [("act_nchwc", 1e-3), ("Reorder_token_3", 2e-3), ("act_1_nchwc", 4e-3), ("fc/MatMul", 8e-3)]
    assert measure.by_layer(kernels, labels, 3) == (3.0, 4.0, 8.0)


def test_a_profile_of_int8_tells_what_float32_takes_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    subject = pieces.make(
        "chain", lambda classes: chain(16, 32), SIZE, folder, precision="int8", variants=6, reporter=Silent()
    )
    pack.pack(folder, subject, tmp_path / "pieces.zip")
    pack.unpack(tmp_path / "pieces.zip", tmp_path / "there")
    operators = [{node.op_type for node in onnx.load(tmp_path / f"there/{name}").graph.node} for name in
                 ("fp32.onnx", "00.onnx")]  # fmt: skip
    assert ["QuantizeLinear" in each for each in operators] == [False, True]

    def faster(path: Path, *rest: object) -> tuple[float, tuple[float, ...]]:
        ms, layers = look(path, *rest)  # type: ignore[arg-type]
        return (3 * ms if path.stem == "fp32" else ms), layers

    found = measure.measure(tmp_path / "there", ORT, look=faster, reporter=Silent())
    assert found.float32_ms == pytest.approx(3 * found.full_ms)
    assert len(found.runs) == 6


def test_a_killed_profile_goes_on_with_the_next_turn(parts: Path) -> None:
    turns: list[str] = []

    def dies_once(path: Path, *rest: object) -> tuple[float, tuple[float, ...]]:
        turns.append(path.stem)
        if len(turns) == 6:
            raise KeyboardInterrupt
        return look(path, *rest)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        measure.measure(parts, ORT, rounds=(3, 3), look=dies_once, reporter=Silent())
    found = measure.measure(parts, ORT, rounds=(3, 3), look=dies_once, reporter=Silent())
    there = ["00", "01", "02", "00", "03", "04", "05"]  # the unpruned model, of which all are shares, twice
    assert turns == [*there[:6], *there[5:], *reversed(there), *there]
    assert found.stable
    assert fit(found).total([(16, 3), (32, 16), (4, 32)]) == pytest.approx(found.full_ms, rel=0.02)


def test_half_timed_under_other_conditions_is_not_mixed(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*arguments: object) -> tuple[float, tuple[float, ...]]:
        if (parts / "visits.json").exists():
            raise KeyboardInterrupt
        return look(*arguments)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        measure.measure(parts, ORT, look=dies, reporter=Silent())
    with pytest.raises(InputError, match="half timed in onnxruntime on cpu, 1 thread, batch 1"):
        measure.measure(parts, replace(ORT, threads=2), look=look, reporter=Silent())
    monkeypatch.setattr(measure, "cpu_name", lambda: "another CPU")
    with pytest.raises(InputError, match=r"another CPU.* is asked for"):
        measure.measure(parts, ORT, look=look, reporter=Silent())


def test_a_noisy_machine_is_looked_at_longer_and_then_named(parts: Path) -> None:
    turns = iter(range(1000))

    def noisy(*arguments: object) -> tuple[float, tuple[float, ...]]:
        ms, layers = look(*arguments)  # type: ignore[arg-type]
        return ms * (1 + next(turns) % 11), layers

    found = measure.measure(parts, ORT, rounds=(3, 5), look=noisy, reporter=Silent())
    assert next(turns) == 5 * 7
    assert not found.stable
    assert "the machine was not quiet" in next(files.remarks(found))


BUSY, HOT = Seen(others=1e4), Seen(others=0.0, throttled=("the soft temperature limit",))


@pytest.mark.parametrize("seen", [BUSY, HOT])
def test_a_disturbed_turn_is_taken_again_and_never_counts(parts: Path, watch: list[Seen], seen: Seen) -> None:
    quiet = measure.measure(parts, ORT, look=look, reporter=Silent())
    (parts / measure.VISITS).unlink()
    turns: list[str] = []
    watch += [seen] * 14

    def slow_at_first(path: Path, *rest: object) -> tuple[float, tuple[float, ...]]:
        turns.append(path.stem)
        ms, layers = look(path, *rest)  # type: ignore[arg-type]
        return (10 * ms, layers) if len(turns) <= 14 else (ms, layers)

    assert measure.measure(parts, ORT, look=slow_at_first, reporter=Silent()) == quiet
    assert len(turns) == 4 * 7 - 1  # two rounds that count, of which the unpruned model needs no last turn


def test_a_model_that_is_disturbed_each_time_is_left_out_and_told(parts: Path, watch: list[Seen]) -> None:
    for turn in range(5):
        watch += [HOT if place == (6 if turn % 2 == 0 else 0) else Seen() for place in range(7)]
    found = measure.measure(parts, ORT, rounds=(3, 5), look=look, reporter=Silent())
    assert (len(found.runs), found.left_out) == (5, 1)
    assert {len(kernel.samples) for kernel in found.kernels} == {5}
    assert list(files.remarks(found)) == [
        "1 of the 6 models that a profile is fitted to were disturbed each time they were timed, and are left out."
    ]


def test_no_piece_of_one_profile_is_timed_for_another(
    parts: Path, tmp_path: Path, watch: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where a model was left out, nor where the first profile was killed while it was timed or cleared away."""
    monkeypatch.setattr(measure, "timed", look)
    for turn in range(8):
        watch += [HOT if place == (6 if turn % 2 == 0 else 0) else Seen() for place in range(7)]
    found = files.profile(tmp_path / "p.json", ORT, source=tmp_path / "pieces.zip", reporter=Silent())
    assert found.left_out == 1
    assert not parts.exists()
    other = pieces.make("other", lambda classes: chain(24, 32), SIZE, tmp_path / "o", variants=6, reporter=Silent())
    pack.pack(tmp_path / "o", other, tmp_path / "other.zip")
    pack.unpack(tmp_path / "pieces.zip", parts)
    told = "chain at 8x8, fp32, 6 variants for cpu.*other at 8x8"
    with pytest.raises(InputError, match=told):
        files.profile(tmp_path / "p.json", ORT, source=tmp_path / "other.zip", reporter=Silent())
    (parts / pack.SUBJECT).unlink()
    found = files.profile(tmp_path / "p.json", ORT, source=tmp_path / "other.zip", reporter=Silent())
    assert found.backbone == "other"
    assert [run.shapes[0][0] for run in found.runs] == [counts["0"] for counts in other.variants]


@pytest.mark.parametrize(("seen", "told"), [(BUSY, "other processes worked"), (HOT, "the soft temperature limit")])
def test_no_plan_is_made_by_times_that_were_all_disturbed(
    parts: Path, watch: list[Seen], seen: Seen, told: str
) -> None:
    watch += [seen] * 5 * 7
    with pytest.raises(LatencyError, match=f"6 of 6 models were disturbed.*{told}.*profile again"):
        measure.measure(parts, ORT, rounds=(3, 5), look=look, reporter=Silent())
    assert not watch
    assert measure.measure(parts, ORT, rounds=(3, 5), look=look, reporter=Silent()).stable  # once it is quiet


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data | {"noise": float("nan")}, "damaged"),
        (lambda data: data | {"layers": [{"weight": "x", "kernel": 99}]}, "a kernel that is not there"),
        (lambda data: data | {"runs": [run | {"ms": -1.0} for run in data["runs"]]}, "must be from"),
        (lambda data: data | {"runs": [run | {"shapes": []} for run in data["runs"]]}, "one shape for each layer"),
        (
            lambda data: data | {"kernels": [k | {"samples": k["samples"][1:]} for k in data["kernels"]]},
            "one sample for",
        ),
        (
            lambda data: data | {"kernels": [k | {"samples": k["samples"][::-1]} for k in data["kernels"]]},
            "in that order",
        ),
        (lambda data: data | {"format": 2}, "has format 2"),
        (lambda data: data | {"more": 1}, "no version wrote"),
    ],
)
def test_a_damaged_profile_is_refused_with_what_is_wrong(tmp_path: Path, spoil, told: str) -> None:
    model = chain(16, 32)
    data = spoil(asdict(profile_by(model, structure_of(model), blocks_of(8))))
    (tmp_path / "p.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=told):
        files.read(tmp_path / "p.json")


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    model = chain(16, 32)
    profile = profile_by(model, structure_of(model), blocks_of(8))
    (tmp_path / "p.json").write_text(json.dumps(asdict(profile)), encoding="utf-8")
    assert files.read(tmp_path / "p.json") == profile


def test_damaged_pieces_are_refused(parts: Path, tmp_path: Path) -> None:
    whole = (tmp_path / "pieces.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    spoilt = bytearray(whole)
    with zipfile.ZipFile(tmp_path / "pieces.zip") as archive:
        begin = archive.getinfo("00.onnx").header_offset + 50
    spoilt[begin : begin + 40] = b"x" * 40
    (tmp_path / "spoilt.zip").write_bytes(spoilt)
    with pytest.raises(InputError, match=r"spoilt\.zip is damaged"):
        pack.unpack(tmp_path / "spoilt.zip", tmp_path / "half")
    pack.unpack(tmp_path / "pieces.zip", tmp_path / "half")
    for name in ("cut.zip", "other.zip"):
        with pytest.raises(InputError, match="damaged"):
            pack.unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out" / "subject.json").exists()


def test_the_command_times_pieces_and_leaves_the_profile_alone(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "timed", look)
    out = tmp_path / "q.json"
    result = CliRunner().invoke(main, ["profile", str(tmp_path / "pieces.zip"), "--out", str(out), "--json", "-q"])
    assert result.exit_code == 0, result.output
    told, found = json.loads(result.stdout), files.read(out)
    assert told["full_ms"] == pytest.approx(found.full_ms)
    errors = unseen(found)
    assert errors is not None
    assert told["unseen"] == asdict(errors)
    assert told["seconds"] >= 0
    shown = CliRunner().invoke(main, ["profile", str(tmp_path / "pieces.zip"), "--out", str(out), "-q"]).stdout
    assert re.search(r"widths in \d+ s", shown)
    assert f"It predicts models that it has not seen {errors}." in shown
    assert {path.name for path in tmp_path.iterdir()} == {"pieces.zip", "q.json", "p.json.parts"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--precision", "int8"], "holds pieces made with --precision fp32: leave it out, or make others."),
        (["--image-size", "16"], "made with --image-size 8"),
        (["--variants", "8"], "made with --variants 6"),
    ],
)
def test_pieces_of_something_else_than_is_asked_for_are_not_timed(
    parts: Path, tmp_path: Path, asked: list[str], told: str
) -> None:
    pieces = ["profile", str(tmp_path / "pieces.zip"), "--out", str(tmp_path / "q.json")]
    refused = CliRunner().invoke(main, [*pieces, *asked])
    assert refused.exit_code == InputError.code
    assert told in refused.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnet18", "--out", "profile.txt"], "must end in .json"),
        (["pieces.zip", "--out", "more.zip"], "holds pieces already"),
        (["nothing.zip", "--out", "p.json"], "does not exist"),
        (["resnet18", "--out", "p.json", "--runtime", "abacus"], "no runtime 'abacus'"),
        (["resnet18", "--out", "p.json", "--runtime", "litert"], "cannot be profiled|not installed"),
    ],
)
def test_wrong_usage_is_reported_before_any_work(arguments: list[str], told: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["profile", *arguments])
    assert result.exit_code in (2, 6)
    assert re.search(told, result.output)


def test_a_device_needs_neither_torch_nor_onnx_to_time_pieces(parts: Path, tmp_path: Path) -> None:
    script = f"""
import sys
for name in ("torch", "timm", "onnx", "pydantic", "rich", "scipy"): sys.modules[name] = None
from contextlib import contextmanager
from mvp_deploy.base.watch import Seen
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.latency import measure
@contextmanager
def watched(): yield [Seen(others=0.0)]
measure.watched, measure.KERNEL_RUNS = watched, 2
measure.WINDOWS = Settings(duration=0.02, processes=2, window=0.01, warm_up=0.01)
measure.measure.__kwdefaults__["rounds"] = (2, 2)
from mvp_deploy.cli import main
main(["profile", {str(tmp_path / "pieces.zip")!r}, "--out", {str(tmp_path / "device.json")!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files.read(tmp_path / "device.json").backbone == "chain"
