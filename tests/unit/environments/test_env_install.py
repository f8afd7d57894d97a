"""Engines' own environments: which lists, which commands, where they are, and what an installation that fails says."""

import json
import os
import sys
from pathlib import Path

import pytest

from engineroom import environments
from engineroom.cli.app import run
from engineroom.engines import registry
from engineroom.engines.sglang.interpreter import find_interpreter
from engineroom.environments import recipes
from engineroom.environments.install import choose, commands, install
from engineroom.environments.installed import MARKER, folder_of
from engineroom.environments.recipes import recipe
from engineroom.errors import ArgumentError, EngineNotInstalledError, EngineStartError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINEROOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def made(engine: str = "sglang", version: str = "0.5.23") -> Path:
    """An environment as the command would leave it, with this Python in it."""
    folder = folder_of(engine)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    info = folder / "lib" / "python3.11" / "site-packages" / f"{engine}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {engine}\nVersion: {version}\n")
    mark = {"engine": engine, "build": "cpu", "fingerprint": recipe(engine, "cpu").fingerprint}
    (folder / MARKER).write_text(json.dumps(mark))
    return folder


@pytest.mark.parametrize("engine", ["sglang", "vllm", "ktransformers"])
@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_every_list_is_there_and_pins_every_version(engine: str, build: str) -> None:
    if engine == "ktransformers" and build == "cuda":
        with pytest.raises(ArgumentError, match="--build cpu"):
            recipe(engine, build)
        return
    for file in recipe(engine, build).lists:
        wanted = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        assert wanted
        assert all("==" in line for line in wanted)


def test_vllms_lists_agree_with_the_versions_that_the_tests_run_with() -> None:
    constraints = (Path(__file__).parents[3] / "constraints.txt").read_text().lower().replace("_", "-")
    for file in recipe("vllm", "cpu").lists:
        for line in file.read_text().lower().replace("_", "-").splitlines():
            if "==" in line and not line.startswith("#"):
                name, version = line.split("==")
                assert f"{name.partition('[')[0]}=={version}" in constraints.splitlines()


@pytest.mark.parametrize("engine", ["sglang", "vllm", "ktransformers"])
def test_the_cpu_lists_leave_neither_torch_nor_transformers_to_chance(engine: str) -> None:
    """What others ask for is satisfied by the newest torch, which may be for CUDA, and by a Transformers that fails."""
    lines = {line for file in recipe(engine, "cpu").lists for line in file.read_text().splitlines()}
    assert {"torch==2.13.0", "transformers==5.19.0"} <= lines


def test_the_commands_are_shown_and_nothing_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "install", "sglang", "--build", "cpu", "--dry-run"]) == 0
    venv, first, bare = capsys.readouterr().out.splitlines()
    assert venv.endswith(f"-m venv {home / 'envs' / 'sglang'}")
    assert first.endswith("sglang-cpu.txt")
    assert "--no-deps" in bare
    assert not home.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["install", "sglan"], "engineroom env install sglang"),
        (["install"], "install an engine"),
        (["remove", "sglang"], "install an engine"),
        (["install", "sglang", "--build", "tpu"], "builds: cpu, cuda"),
        (["--recreate"], "belong to install"),
    ],
)
def test_what_can_not_be_installed(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", *words]) == 2
    assert says in capsys.readouterr().err


def test_an_engine_that_runs_in_process_brings_engineroom_along() -> None:
    last = commands(choose("vllm", "cpu"), Path("/there"))[-1]
    assert last[:4] == ["/there/bin/python", "-m", "pip", "install"]
    assert "engineroom" in last[-1] or Path(last[-1]).is_dir()


@pytest.mark.parametrize(
    ("engine", "words", "says"),
    [
        ("vllm", [], "use it with infer_backend=vllm vllm_python={folder}/bin/python"),
        ("sglang", [], "infer_backend=sglang finds it there, without sglang_python={folder}/bin/python"),
        (
            "sglang",
            ["--folder", "elsewhere"],
            "use it with infer_backend=sglang sglang_python={folder}/bin/python",
        ),
        ("ktransformers", [], "run it with {folder}/bin/engineroom … infer_backend=ktransformers"),
    ],
)
def test_the_last_line_says_how_to_use_it(
    engine: str,
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = made(engine)
    if words:
        folder = folder.rename(tmp_path / words[1])
    assert run(["env", "install", engine, "--build", "cpu", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == says.format(folder=folder)


# --- where engines look ---------------------------------------------------------------------------------------------


def test_an_environment_is_found_once_it_is_whole() -> None:
    assert environments.find("sglang") is None
    folder = made()
    found = environments.find("sglang")
    assert found is not None
    assert (found.build, found.version("sglang"), found.version("torch")) == ("cpu", "0.5.23", None)
    assert find_interpreter(None) == folder / "bin" / "python"
    spec = registry.find("sglang")
    assert (spec.missing(), spec.version) == (None, "0.5.23")
    (folder / MARKER).unlink()  # as if the installation had been interrupted
    assert environments.find("sglang") is None


def test_without_one_the_error_says_how_to_make_it() -> None:
    spec = registry.find("sglang")
    assert (spec.missing(), spec.fix) == ("not installed: sglang", "engineroom env install sglang")
    with pytest.raises(EngineNotInstalledError, match="engineroom env install sglang"):
        find_interpreter(None)


def test_an_interpreter_that_is_named_goes_first() -> None:
    made()
    assert find_interpreter(sys.executable) == Path(sys.executable).absolute()
    with pytest.raises(ArgumentError, match="sglang_python='/no/such"):
        find_interpreter("/no/such/python")


# --- installing, with lists that need no package index --------------------------------------------------------------


@pytest.mark.slow
def test_it_is_made_once_and_again_when_its_lists_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("sglang-cpu", "sglang-cpu-bare"):
        (lists / f"{name}.txt").write_text("# nothing\n")
    monkeypatch.setattr(recipes, "_LISTS", lists)
    said: list[str] = []
    first = install(choose("sglang", "cpu"), said.append)
    assert os.access(first.python, os.X_OK)
    assert len(said) == 3
    assert install(choose("sglang", "cpu"), said.append) == first
    assert len(said) == 3
    (lists / "sglang-cpu.txt").write_text("./no-such-package\n")
    with pytest.raises(EngineStartError, match=r"no-such-package(.|\n)*sglang-install.log"):
        install(choose("sglang", "cpu"), said.append)
    assert environments.find("sglang") is None
    assert "no-such-package" in (folder_of("sglang").parent / "sglang-install.log").read_text()
