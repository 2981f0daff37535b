"""Tasks from tables, COCO files, shards, Parquet and URLs: the same images as the folder they were made of."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.tasks import load_again, load_task
from mvp_deploy.tasks.task import with_query
from mvp_deploy.tasks.unpack import Labelled, unpacked

CLASSES = ("ant", "bee")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVP_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/, val/ and test/ of two classes, six images each."""
    for part in ("train", "val", "test"):
        for name in CLASSES:
            place = tmp_path / "folder" / part / name
            place.mkdir(parents=True)
            random = np.random.default_rng(zlib.crc32(f"{part}{name}".encode()))
            for number in range(6):
                Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).save(place / f"{number}.png")
    return tmp_path / "folder"


def images(folder: Path, part: str = "") -> list[tuple[str, Path]]:
    return [(path.parent.name, path) for path in sorted(folder.rglob("*.png")) if part in path.parts or not part]


def table(folder: Path, split: bool) -> Path:
    lines = ["path,label" + ",split" * split]
    for name, path in images(folder):
        lines.append(f"{path.relative_to(folder)},{name}" + f",{path.parts[-3]}" * split)
    (folder / "images.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "images.csv"


def coco(folder: Path, part: str) -> Path:
    listed = images(folder, part)
    data = {
        "images": [{"id": k, "file_name": str(path.relative_to(folder))} for k, (_, path) in enumerate(listed)],
        "annotations": [{"image_id": k, "category_id": CLASSES.index(name)} for k, (name, _) in enumerate(listed)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(data))
    return path


def shards(folder: Path, out: Path) -> Path:
    out.mkdir()
    for part in ("train", "val", "test"):
        for shard in range(2):
            with tarfile.open(out / f"{part}-{shard:03}.tar", "w") as archive:
                for k, (name, path) in enumerate(images(folder, part)[shard::2]):
                    for ending, content in ((".png", path.read_bytes()), (".cls", name.encode())):
                        member = tarfile.TarInfo(f"{k:04}{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return out


def parquet(folder: Path, out: Path) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet as files

    (out / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for part, title in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = images(folder, part)
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for _, path in rows],
            "label": [CLASSES.index(name) for name, _ in rows],
        }
        made = arrow.table(columns).replace_schema_metadata(metadata)
        files.write_table(made, out / "data" / f"{title}-00000-of-00001.parquet")
    return out


def test_a_table_with_parts_is_the_folder_it_lists(folder: Path) -> None:
    expected, found = load_task(str(folder)), load_task(str(table(folder, split=True)))
    assert found.fingerprint == expected.fingerprint


def test_a_table_without_parts_is_split_by_content(folder: Path) -> None:
    found = load_task(str(table(folder, split=False)))
    assert found.classes == CLASSES
    assert len(found.train) + len(found.test) == 36
    assert found.fingerprint == load_task(str(folder / "images.csv")).fingerprint


def test_an_images_class_is_the_category_of_its_annotations(folder: Path) -> None:
    path = coco(folder, "train")
    data = json.loads(path.read_text())
    data["annotations"].append({"image_id": 0, "category_id": 1})  # now it shows both
    path.write_text(json.dumps(data))
    found = load_task(str(path))
    assert found.left_out == {"images of several categories": 1}
    assert len(found.train) + len(found.test) == 11


@pytest.mark.parametrize("make", [shards, parquet])
def test_archives_hold_the_images_of_the_folder_they_were_made_of(folder: Path, tmp_path: Path, make) -> None:
    expected, found = load_task(str(folder)), load_task(str(make(folder, tmp_path / "archives")))
    assert found.classes == CLASSES
    for part in ("train", "test"):
        one, other = getattr(expected, part), getattr(found, part)
        pairs = [set(zip(split.labels.tolist(), split.digests, strict=True)) for split in (one, other)]
        assert pairs[0] == pairs[1]
    assert found.final is not None
    assert len(found.final().test) == 12


def test_shards_are_named_by_a_range_and_unpacked_once(folder: Path, tmp_path: Path) -> None:
    out = shards(folder, tmp_path / "archives")
    spec = f"{out}/train-{{000..001}}.tar"
    before = load_task(spec)
    assert len(before.train) + len(before.test) == 12
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert load_task(spec).fingerprint == before.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == written


def test_what_the_cache_has_lost_is_unpacked_again(folder: Path, tmp_path: Path) -> None:
    spec = str(shards(folder, tmp_path / "archives"))
    before = load_task(spec)
    min((tmp_path / "cache").rglob("*.png")).unlink()
    assert load_task(spec).fingerprint == before.fingerprint


def test_two_tasks_of_one_archive_that_start_together_unpack_it_once(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    begun, another, calls = Event(), Event(), []

    def samples(archive: Path) -> Iterator[Labelled]:
        calls.append(archive)
        begun.set()
        another.wait()
        time.sleep(0.1)  # the other is at the lock by now, or finds the images: either is right
        yield Labelled(b"image", ".png", "ant")

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(unpacked, tmp_path / "a.tar", samples)
        begun.wait()
        another.set()
        assert unpacked(tmp_path / "a.tar", samples) == first.result()
    assert len(calls) == 1


def test_the_third_part_says_what_is_wrong_with_it(folder: Path) -> None:
    copied = folder / "test" / "ant" / "copy.png"
    copied.write_bytes((folder / "train" / "ant" / "0.png").read_bytes())
    task = load_task(str(folder))
    assert task.final is not None
    assert not task.notes
    (note,) = task.final().notes
    assert "1 of 13 held-out images are copies of training images" in note
    (folder / "test" / "owl").mkdir()
    (folder / "test" / "owl" / "0.png").write_bytes(copied.read_bytes())
    task = load_task(str(folder))
    assert task.final is not None
    with pytest.raises(InputError, match="'owl'"):
        task.final()


def test_val_is_held_out_and_test_is_the_third_part(folder: Path) -> None:
    task = load_task(f"{folder}#bee,ant")
    assert task.final is not None
    final = task.final().test
    assert {path.parts[-3] for path in final.images} == {"test"}  # type: ignore[union-attr]
    assert [task.classes[k] for k in final.labels] == [path.parent.name for path in final.images]  # type: ignore[union-attr]
    before = task.fingerprint
    for name in ("valid", "validation"):
        next(path for path in folder.iterdir() if path.name.startswith("val")).rename(folder / name)
        renamed = load_task(f"{folder}#bee,ant")
        assert (renamed.fingerprint, dict(renamed.left_out)) == (before, {})
    (folder / "validation").rename(folder / "later")
    assert load_task(str(folder)).final is None


@pytest.mark.parametrize("of", ["folder", "table"])
def test_a_limit_takes_so_many_of_each_class_and_the_same_again(folder: Path, of: str) -> None:
    source = folder if of == "folder" else table(folder, split=True)
    task = load_task(f"{source}?limit=3")
    assert np.bincount(task.train.labels).tolist() == [3, 3]
    assert task.left_out["images over the limit"] == 18
    assert load_again(f"{source}?limit=3", task.fingerprint, 0) is not None


def test_a_class_map_renames_merges_and_leaves_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("ant,insect\nbee,insect\ncat,\n")
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir()
            for number in range(3):
                Image.new("RGB", (9, 9), (number * 80, len(name), len(part))).save(
                    folder / part / name / f"{number}.png"
                )
    task = load_task(with_query(str(folder), None, tmp_path / "map.csv"))
    assert task.classes == ("dog", "insect")
    assert np.bincount(task.train.labels).tolist() == [3, 12]
    assert task.left_out["images of classes that the class map leaves out"] == 6
    (tmp_path / "map.csv").write_text("ant,insect\nbea,insect\n")
    left_out = load_task(with_query(str(folder), None, tmp_path / "map.csv")).left_out
    assert left_out == {"names of the class map that no class has: bea": 1}


def test_every_source_may_lie_at_a_url(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    try:
        for path in folder.rglob("*.png"):
            memory.pipe(f"/birds/{path.relative_to(folder).as_posix()}", path.read_bytes())
        found = load_task("memory://birds?limit=4#bee,ant")
        assert found.classes == ("bee", "ant")
        assert len(found.train) == 8
    finally:
        memory.rm("/birds", recursive=True)


def test_a_table_at_a_url_is_refused_for_its_images_would_not_come() -> None:
    for name in ("a.csv", "a.csv?limit=5", "a.json#bee,ant"):
        with pytest.raises(InputError, match="lists images that lie elsewhere"):
            load_task(f"https://example.org/{name}")


def test_uneven_classes_are_said_once(folder: Path) -> None:
    for path in images(folder / "train" / "ant")[:5]:
        path[1].unlink()
    for number in range(10):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / "train" / "bee" / f"more{number}.png")
    (note,) = [note for note in load_task(str(folder)).notes if "uneven classes:" in note]
    assert "ant has 1 training images and bee 16" in note


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "name,kind\nx.png,ant\n", "must name path and label"),
        ("a.csv", "path,label\nx.png,\n", "line 2 .* lacks"),
        ("a.csv", "path,label,split\nx.png,ant,third\n", "part 'third'"),
        ("a.csv", "path,label\nx.png,ant\ny.png,bee\n", r"x\.png"),
        ("a.json", "[]", "not a COCO file"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", '{"images": [], "annotations": [{}], "categories": []}', "not a COCO file"),
        ("a.tar", "no tar", "cannot be read as a tar"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MvpError, match=says):
        load_task(str(tmp_path / name))


@pytest.mark.parametrize("query", ["limit=1", "limit=many", "colour=red", "class-map=/nowhere.csv"])
def test_another_query_is_refused_before_any_image_is_read(folder: Path, query: str) -> None:
    with pytest.raises(InputError, match=r"limit|class"):
        load_task(f"{folder}?{query}")


def test_a_pipeline_sees_when_an_image_changes_that_a_table_lists(folder: Path) -> None:
    from mvp_deploy.pipeline.places import data_content

    path = table(folder, split=True)
    before, limited = data_content(str(path)), data_content(f"{path}?limit=3")
    assert before != limited
    assert data_content(str(path)) == before
    Image.new("RGB", (9, 9)).save(folder / "train" / "ant" / "0.png")
    assert data_content(str(path)) != before
