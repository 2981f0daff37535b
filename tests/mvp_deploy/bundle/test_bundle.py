from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import CLASSES, PREPROCESSING, make_bundle

from mvp_deploy import bundle
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.files import sha256
from mvp_deploy.benchmark.format import read_measurements
from mvp_deploy.bundle import example as bundle_example
from mvp_deploy.tasks.folder import read_image
from mvp_deploy.tasks.preprocessing import Preprocessing


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_what_is_written_is_read(whole: Path) -> None:
    read = bundle.read(whole)
    assert read.classes == CLASSES
    assert [(m.model, m.precision) for m in read.models] == [("unpruned", "fp32"), ("pruned", "fp32")]
    assert read.samples["images"].shape == (10, 3, 8, 8)
    assert read.samples["pruned"].shape == (10, 3)
    assert bundle.verify(whole) == []


def test_equal_content_gives_equal_bytes(whole: Path, tmp_path: Path) -> None:
    again = make_bundle(tmp_path / "again")
    assert (again / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def change(folder: Path) -> None:
    file = folder / "models/pruned.fp32.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(folder: Path) -> None:
    (folder / "labels.json").unlink()


def add(folder: Path) -> None:
    (folder / "models/extra.onnx").write_text("x")


def add_link(folder: Path) -> None:
    (folder / "more").symlink_to("/usr")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (change, "models/pruned.fp32.onnx is changed"),
        (remove, "labels.json is missing"),
        (add, "models/extra.onnx is added"),
        (add_link, "more is added"),
    ],
)
def test_any_difference_is_found_and_the_bundle_refused(whole: Path, damage, found: str) -> None:
    damage(whole)
    assert bundle.verify(whole) == [found]
    with pytest.raises(MvpError, match=found):
        bundle.read(whole)


def test_what_was_built_here_from_a_bundle_does_not_spoil_it(whole: Path) -> None:
    (whole / "built/here").mkdir(parents=True)
    (whole / "built/here/pruned.engine").write_text("engine")
    assert bundle.verify(whole) == []


@given(st.text(alphabet="ab./\\:\0~", max_size=12) | st.sampled_from(["..", "/etc/passwd", "a/../../b", "C:\\x"]))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    folder = Path("/bundles/one")
    try:
        file = bundle.inside(folder, name)
    except MvpError:
        return
    assert file != folder
    assert Path(str(file)).resolve().is_relative_to(folder)
    assert ".." not in file.parts


@pytest.mark.parametrize("name", ["../secret", "/tmp/secret", "models/../../secret", "a\\..\\secret", "models//x", ""])
def test_a_manifest_that_names_a_path_outside_is_refused(whole: Path, name: str) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (whole / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MvpError, match="do not trust"):
        bundle.verify(whole)


def test_a_listed_link_that_leads_out_is_refused_even_if_its_content_is_right(whole: Path, tmp_path: Path) -> None:
    shutil.move(whole / "labels.json", tmp_path / "labels.json")
    (whole / "labels.json").symlink_to(tmp_path / "labels.json")
    with pytest.raises(MvpError, match="by a link"):
        bundle.verify(whole)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 99, "files": {}}', '{"format": 1}'])
def test_a_broken_or_foreign_manifest_is_an_expected_error(whole: Path, text: str) -> None:
    (whole / "manifest.json").write_text(text)
    with pytest.raises(MvpError):
        bundle.verify(whole)


def test_a_failed_write_leaves_the_old_bundle_and_no_litter(whole: Path) -> None:
    def fail() -> None:
        with bundle.writing(whole) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert bundle.verify(whole) == []
    assert list(whole.parent.iterdir()) == [whole]


def test_what_a_killed_write_left_does_not_get_into_the_next(whole: Path) -> None:
    left = whole.parent / ".bundle.0123456789abcdef.tmp/part/bundle"
    left.mkdir(parents=True)
    (left / "stale").write_text("x")
    make_bundle(whole)
    assert bundle.verify(whole) == []
    assert not (whole / "stale").exists()
    assert list(whole.parent.iterdir()) == [whole]


def test_what_is_not_a_bundle_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(MvpError, match="is not a bundle"), bundle.writing(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@given(
    height=st.integers(5, 40),
    width=st.integers(5, 40),
    crop=st.sampled_from([1.0, 0.9, 0.875]),
    mode=st.sampled_from(["center", "squash", "border"]),
    size=st.sampled_from([(8, 8), (8, 12), (15, 15)]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_the_examples_preprocessing_is_the_real_one(
    height: int, width: int, crop: float, mode: str, size: tuple[int, int], interpolation: str
) -> None:
    how = PREPROCESSING | {
        "input_size": [3, *size], "crop_pct": crop, "crop_mode": mode, "interpolation": interpolation,
    }  # fmt: skip
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    expected = Preprocessing.from_json(how).apply(image)
    np.testing.assert_allclose(bundle_example.prepare(Image.fromarray(image), how)[0], expected, atol=1e-6)


def test_the_example_reads_images_as_training_does(tmp_path: Path) -> None:
    """Deep, transparent, turned: the example's input is the preprocessing's of the pixels that training reads."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random.integers(0, 65536, (12, 20)).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(random.integers(0, 256, (12, 20, 4), np.uint8)).save(tmp_path / "transparent.png")
    Image.fromarray(random.integers(0, 256, (12, 20, 3), np.uint8)).save(tmp_path / "turned.png", exif=exif)
    for path in tmp_path.iterdir():
        expected = Preprocessing.from_json(PREPROCESSING).apply(read_image(path))
        with Image.open(path) as image:
            np.testing.assert_allclose(bundle_example.prepare(image, PREPROCESSING)[0], expected, atol=1e-6)


def test_the_example_classifies_an_image_with_three_packages_alone(whole: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((20, 30), np.float32)).save(tmp_path / "b.tif")
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'timm', 'onnx', 'mvp_deploy', 'exporters'): sys.modules[name] = None\n"
        f"sys.argv = ['example.py', {str(tmp_path / 'b.tif')!r}, {str(tmp_path / 'a.png')!r}]\n"
        f"runpy.run_path({str(whole / 'example.py')!r}, run_name='__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert any(f"a.png: {name} (" in shown for name in CLASSES)
    assert "b.tif: cannot be read as an image (Pillow's mode F" in shown


@pytest.mark.parametrize("name", ["models/pruned.fp32.onnx", "labels.json", "preprocessing.json"])
def test_the_example_refuses_a_file_that_is_not_the_bundles(tmp_path: Path, name: str, monkeypatch) -> None:
    from fakes.bundle import tiny_bundle

    made = tiny_bundle(tmp_path / "b", ["fp32"])
    other = (made / name).read_bytes()
    (made / name).write_bytes(other.replace(b"\n", b" \n", 1) if name.endswith("json") else other[:-100])
    monkeypatch.setattr(sys, "argv", ["example.py", "a.png"])
    with pytest.raises(SystemExit, match=f"{name} is not as it was written"):
        runpy.run_path(str(made / "example.py"), run_name="__main__")
    (made / "manifest.json").unlink()
    with pytest.raises(SystemExit, match="copy the whole bundle"):
        runpy.run_path(str(made / "example.py"), run_name="__main__")


def test_a_bundle_without_measurements_has_none(tmp_path: Path) -> None:
    """Other work disturbed its timing, or nothing was timed: a demo on a busy machine still ends well."""
    from fakes.bundle import tiny_bundle

    assert read_measurements(bundle.read(tiny_bundle(tmp_path / "b", ["fp32"]))) is None


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("../../secret.bin", "models/pruned.fp32.onnx keeps weights in '../secret.bin'"),
        ("/etc/hostname", "keeps weights in '/etc/hostname'"),
        ("pruned.data", None),
    ],
)
def test_an_onnx_file_keeps_its_weights_in_the_bundle_alone(whole: Path, place: str, said: str | None) -> None:
    import onnx

    file = whole / "models/pruned.fp32.onnx"
    model = onnx.load(file)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    (whole / "models/pruned.data").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    onnx.save(model, file)
    names = [each.relative_to(whole).as_posix() for each in whole.rglob("*") if each.is_file()]
    listed = {
        name: {"sha256": sha256(whole / name), "bytes": (whole / name).stat().st_size}
        for name in names
        if name != bundle.MANIFEST
    }
    (whole / bundle.MANIFEST).write_text(json.dumps({"format": 1, "files": listed}))
    problems = bundle.verify(whole)
    assert [said in each for each in problems] == [True] if said else problems == []
    if said:
        with pytest.raises(MvpError, match="keeps weights"):
            bundle.read(whole)
