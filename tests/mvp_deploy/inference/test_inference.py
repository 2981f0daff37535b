"""`predict` and `evaluate`: what a bundle's model says of images, by the bundle's own preprocessing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from fakes.bundle import tiny_bundle
from PIL import Image

from mvp_deploy.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "b", ["fp32", "int8"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of six noisy images of 8 pixels, so that nothing is resized."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "abcd":
        (folder / name).mkdir()
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def expected(made: Path, image: Path, model: str = "pruned") -> np.ndarray:
    """Class probabilities by ONNX Runtime and the formula of the bundle's preprocessing."""
    pixels = (np.asarray(Image.open(image), np.float32) / 255 - 0.5) / 0.5
    session = onnxruntime.InferenceSession(made / "models" / f"{model}.fp32.onnx")
    logits = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})[0][0]
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


@pytest.mark.parametrize("model", ["pruned", "unpruned"])
def test_predict_gives_what_the_runtime_gives(made: Path, photos: Path, model: str) -> None:
    images = sorted(photos.glob("a/*.png"))[:2]
    flag = ["--unpruned"] if model == "unpruned" else []
    result = call("predict", made, *images, "--top", 4, "--json", *flag)
    assert result.exit_code == 0, result.output
    for image, said in zip(images, json.loads(result.stdout)["predictions"], strict=True):
        shares = expected(made, image, model)
        assert said["label"] == "abcd"[int(shares.argmax())]
        assert [said["classes"][name] for name in "abcd"] == pytest.approx(shares.tolist(), abs=1e-5)


def test_predict_writes_every_probability_as_csv(made: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "a" / "0.png"
    result = call("predict", made, image, "--csv", tmp_path / "said.csv")
    assert result.exit_code == 0, result.output
    (row,) = csv.DictReader((tmp_path / "said.csv").open(encoding="utf-8"))
    assert row["image"] == str(image)
    assert f": {row['predicted']} " in result.output
    assert [float(row[name]) for name in "abcd"] == pytest.approx(expected(made, image).tolist(), abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of text alone")
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_name_that_is_not_utf_8_is_written_as_it_is(made: Path, photos: Path, tmp_path: Path, command: str) -> None:
    image = Path(shutil.copytree(photos, tmp_path / "photos"), "a", os.fsdecode(b"\xff.png"))
    (image.parent / "0.png").rename(image)
    given = (image,) if command == "predict" else (tmp_path / "photos", "--part", "all")
    result = call(command, made, *given, "--csv", tmp_path / "said.csv")
    assert result.exit_code == 0, result.output
    assert os.fsencode(image) in (tmp_path / "said.csv").read_bytes()


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_classified(
    made: Path, photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    result = call("predict", made, broken, photos / "a" / "0.png", tmp_path / "none.jpg")
    assert result.exit_code == 2
    assert f"{photos / 'a' / '0.png'}: " in result.output
    assert "none.jpg does not exist: check the path" in " ".join(result.output.split())
    assert "2 of 3 images cannot be read" in result.output
    assert "--skip-bad" not in result.output
    assert "Traceback" not in result.output


def test_evaluate_counts_every_image_once(made: Path, photos: Path, tmp_path: Path) -> None:
    result = call("evaluate", made, photos, "--part", "all", "--csv", tmp_path / "said.csv", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    confusion = np.array(found["confusion"])
    assert confusion.sum(1).tolist() == [6, 6, 6, 6]
    right = sum(
        "abcd"[int(expected(made, image).argmax())] == image.parent.name for image in sorted(photos.glob("*/*.png"))
    )
    assert np.trace(confusion) == right
    accuracy = found["accuracy"]
    assert accuracy["value"] == pytest.approx(right / 24)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    for place, each in enumerate(found["per_class"]):
        assert (each["class"], each["images"]) == ("abcd"[place], 6)
        assert each["recall"] == pytest.approx(confusion[place, place] / 6)
        given = confusion[:, place].sum()
        assert each["precision"] == (pytest.approx(confusion[place, place] / given) if given else None)
    rows = list(csv.DictReader((tmp_path / "said.csv").open(encoding="utf-8")))
    assert len(rows) == 24
    assert sum(row["class"] == row["predicted"] for row in rows) == right


def test_evaluate_tables_every_class(made: Path, photos: Path) -> None:
    result = call("evaluate", made, photos)
    assert result.exit_code == 0, result.output
    for name in "abcd":
        assert f"\n{name} " in result.output
    assert "recall" in result.output
    assert "True classes in rows" in result.output


def test_classes_are_matched_by_name_not_by_order(made: Path, photos: Path) -> None:
    forward, backward = (
        json.loads(call("evaluate", made, f"{photos}#{names}", "--part", "all", "--json").stdout)
        for names in ("a,b", "b,a")
    )
    assert forward["confusion"] == backward["confusion"]


def test_a_class_the_model_does_not_know_is_refused(made: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("a", "zebra"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(3):
            Image.open(photos / "a" / f"{number}.png").save(tmp_path / "own" / name / f"{name}{number}.png")
    result = call("evaluate", made, tmp_path / "own")
    assert result.exit_code == 2
    assert "'zebra'" in result.output


def test_evaluate_says_what_it_left_out_and_that_it_judges_by_training_images(
    made: Path, photos: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for part in ("train", "test"):
        shutil.copytree(photos, own / part)
    (own / "test" / "a" / "0.png").write_bytes(b"no image")
    result = call("evaluate", made, own)
    assert result.exit_code == 2
    assert "--skip-bad" in result.output
    result = call("evaluate", made, own, "--skip-bad")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "left out: unreadable images (1)" in said
    assert "23 of 23 held-out images are copies of training images" in said


def test_a_model_the_bundle_lacks_is_refused_with_those_it_has(made: Path, photos: Path) -> None:
    result = call("predict", made, photos / "a" / "0.png", "--precision", "fp16")
    assert result.exit_code == 2
    assert "pruned fp32 for onnx" in result.output
