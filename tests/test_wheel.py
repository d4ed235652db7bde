"""The wheel holds all that a run needs: installed elsewhere, it trains from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, as a user's `pip install .` in a fresh clone builds it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=600)
    return next(folder.glob("mappa-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its dependencies in it, as a user has it; nothing of this one."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=1800, env=ENV)
    return python


def test_conf_and_assets_are_in_the_wheel(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (REPO / "conf").rglob("*.yaml"):
        assert f"mappa/{path.relative_to(REPO)}" in names
    assert "mappa/assets/tiny/model.safetensors" in names
    assert {"mappa/report/template/page.html", "mappa/report/template/page.js", "mappa/serving/card.md"} <= names
    assert {name.partition("/")[0] for name in names} <= {"mappa", "callbacks", "sandbox"} | {
        name.partition("/")[0] for name in names if ".dist-info/" in name
    }


def test_the_installed_wheel_trains_from_an_empty_folder(python: Path, tmp_path: Path):
    where = [str(python), "-c", "import mappa.config; print(mappa.config.CONF)"]
    conf = subprocess.run(where, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(conf).is_relative_to(python.parent.parent), "the checkout must not be what is tried"
    command = [str(python), "-m", "mappa.train", "+experiment=quickstart", "+debug=fast"]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    assert folder.is_relative_to(tmp_path / "outputs")
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_the_installed_wheel_takes_parts_from_outside(python: Path, tmp_path: Path):
    shutil.copytree(REPO / "tests" / "outside", tmp_path, dirs_exist_ok=True)
    command = [str(python), "-m", "mappa.train", "--config-dir", "my/conf", "+experiment=copying", "+debug=fast"]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1] / "summary.json").is_file()
