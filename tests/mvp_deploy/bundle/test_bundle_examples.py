"""example.cpp and example.html: filled for the bundle, compiled, and run in a real browser, where those are.

The C++ test links the library in the wheel of ONNX Runtime; it needs the headers, of that version or an older one:
Debian's libonnxruntime-dev, or a folder that ONNXRUNTIME_INCLUDE names. The browser's test needs Chromium and the npm
package onnxruntime-web, whose folder ONNXRUNTIME_WEB names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from fakes.bundle import tiny_bundle
from PIL import Image

from mvp_deploy import bundle
from mvp_deploy.bundle.examples import examples
from mvp_deploy.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
COMPILER, WEB = shutil.which("c++"), os.environ.get("ONNXRUNTIME_WEB")
HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
SANDBOX = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "b", ["fp32"])


@pytest.fixture
def picture(tmp_path: Path) -> Image.Image:
    """Of little contrast, so that no class gets 100 %."""
    return Image.fromarray(np.random.default_rng(0).integers(118, 138, (8, 8, 3), np.uint8))


def expected(made: Path, picture: Image.Image) -> str:
    """The class and its probability, by Python."""
    pixels = (np.asarray(picture, np.float32) / 255 - 0.5) / 0.5
    session = onnxruntime.InferenceSession(made / "models/pruned.fp32.onnx")
    logits = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})[0][0]
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return f"{'abcd'[int(chances.argmax())]} ({100 * chances.max():.1f}%)"


def test_the_programs_are_in_the_bundle_and_its_manifest(made: Path) -> None:
    assert {"example.py", "example.cpp", "example.html"} <= bundle.listed(made).keys()
    for name in ("example.cpp", "example.html"):
        text = (made / name).read_text(encoding="utf-8")
        assert "models/pruned.fp32.onnx" in text
        assert not re.search(r"@[A-Z]+@", text)


def test_a_bundle_whose_preprocessing_nobody_knows_has_python_alone(made: Path) -> None:
    (made / "preprocessing.json").unlink()
    assert list(examples(made)) == ["example.py"]


def test_labels_cannot_leave_their_string(made: Path) -> None:
    (made / "labels.json").write_text(
        json.dumps(['"; system("x"); "', "</script>", "Käse\n", "@FILE@"]), encoding="utf-8"
    )
    found = examples(made)
    assert "system(" not in found["example.cpp"]
    assert '"K\\303\\244se\\012"' in found["example.cpp"]
    assert found["example.html"].count("</script>") == 1


def test_a_users_file_of_that_name_stays_in_extra(made: Path) -> None:
    bundle.add(made, {"extra/example.py": b"mine"})
    bundle.add(made, {"extra/notes.txt": b"x"})
    assert (made / "extra/example.py").read_text() == "mine"


@pytest.mark.skipif(
    not (COMPILER and LIBRARY and (HEADERS / "onnxruntime_cxx_api.h").is_file()),
    reason="needs a C++ compiler, ONNX Runtime's headers (ONNXRUNTIME_INCLUDE), and its library in the wheel",
)
def test_the_program_in_cpp_says_what_predict_says(made: Path, picture: Image.Image, tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime.so.1"  # by its own name, under which the program looks for it
    library.symlink_to(str(LIBRARY))
    build = [
        str(COMPILER),
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Werror",
        "-isystem",
        str(HEADERS),
        str(made / "example.cpp"),
    ]
    build += [str(library), f"-Wl,-rpath,{tmp_path}", "-o", str(tmp_path / "example")]
    subprocess.run(build, check=True)
    picture.save(tmp_path / "a.ppm")
    command = [tmp_path / "example", made / "models/pruned.fp32.onnx", tmp_path / "a.ppm"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    predicted = CliRunner().invoke(main, ["predict", str(made), str(tmp_path / "a.ppm"), "--json"])
    assert predicted.exit_code == 0, predicted.output
    [found] = json.loads(predicted.stdout)["predictions"]
    assert said == f"{found['image']}: {found['label']} ({found['classes'][found['label']]:.1%})\n"


@pytest.mark.skipif(not (CHROMIUM and WEB), reason="needs Chromium, and ONNXRUNTIME_WEB naming npm's onnxruntime-web")
def test_the_page_classifies_in_a_browser(made: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(made / "a.png")
    (made / "node_modules").mkdir()
    (made / "node_modules/onnxruntime-web").symlink_to(str(WEB))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(made)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = f"http://127.0.0.1:{server.server_port}/example.html?picture=a.png"
        browser = [str(CHROMIUM), "--headless", "--disable-gpu", *SANDBOX, f"--user-data-dir={tmp_path / 'profile'}"]
        command = [*browser, "--virtual-time-budget=60000", "--dump-dom", page]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    finally:
        server.shutdown()
    assert f">{expected(made, picture)}</output>" in shown


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
