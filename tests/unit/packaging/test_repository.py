"""What the docs, compose.yaml and the setup promise, held against the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from penstock.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[3]


def documented_settings() -> dict[str, str]:
    text = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(PENSTOCK_\w+)` \|\s*(.*?)\s*\|", text, re.MULTILINE)
    return {name: default.strip("`") for name, default in rows}


def test_the_docs_list_every_setting_with_its_default() -> None:
    expected: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined
        shown = "" if field.default in (None, (), {}) else str(field.default)
        expected[PREFIX + name.upper()] = shown
    assert documented_settings() == expected


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_services_stand_on_what_is_there() -> None:
    described = compose()
    services = described["services"]
    assert {"redis", "api"} < set(services)
    assert any(name.startswith("worker") for name in services)
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert set(service.get("depends_on", {})) <= set(services)
        if build := service.get("build"):
            dockerfile = ROOT / build["context"] / build["dockerfile"]
            assert dockerfile.is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in described["volumes"] or source.startswith(("$", ".", "/"))
    assert "--appendonly" in services["redis"]["command"]


def test_compose_names_only_settings_that_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for service in compose()["services"].values():
        used = {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
        assert used <= known


def dockerfile(name: str) -> list[str]:
    """Return a Dockerfile's instructions, a line each."""
    text = (ROOT / "docker" / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


DOCKERFILES = sorted(path.name for path in (ROOT / "docker").glob("Dockerfile.*"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_copy_what_is_there_and_not_ignored(name: str) -> None:
    copied = {
        word
        for line in dockerfile(name)
        if line.startswith("COPY") and "--from=" not in line
        for word in line.split()[1:-1]
    }
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied
    for one in copied:
        assert any(one == kept or one.startswith(f"{kept}/") for kept in allowed), one
        assert (ROOT / one).exists(), one


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.worker"])
def test_dockerfiles_copy_what_the_wheel_is_made_of_before_they_build_it(name: str) -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = described["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", described["project"]["readme"], "hatch_build.py"}
    needed |= {package.split("/")[0] for package in wheel["packages"]}
    there: set[str] = set()
    for line in dockerfile(name):
        if line.startswith("COPY"):
            there |= set(line.split()[1:-1])
        if re.search(r"pip +wheel [^&]* \.$", line):
            assert needed <= there, needed - there
            return
    pytest.fail("it never builds Penstock")


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.worker"])
def test_dockerfiles_set_settings_and_extras_that_exist(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    known |= {"PENSTOCK_BUILD_NATIVE"}  # the build's own
    text = "\n".join(dockerfile(name))
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+(?==)", text)) <= known
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = re.findall(r"ARG EXTRAS=(\S+)", text)
    asked += [
        service["build"]["args"]["EXTRAS"]
        for service in compose()["services"].values()
        if "EXTRAS" in service.get("build", {}).get("args", {})
    ]
    assert {extra for one in asked for extra in one.split(",")} <= set(extras)


def test_the_api_tier_depends_on_no_model_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=;! ]", line)[0] for line in project["dependencies"]}
    assert not names & {"torch", "transformers", "bigdl-llm", "openvino", "accelerate"}


def load_bootstrap() -> Any:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The setup script, with a folder of its own in place of the checkout."""
    module = load_bootstrap()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "VENV_PYTHON": venv / "bin" / "python",
        "STAMP": venv / "penstock-setup.json",
        "MARKER": venv / "penstock-setup.unfinished",
        "STATE": tmp_path / ".penstock",
        "LOG": tmp_path / ".penstock" / "logs" / "setup.log",
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


def finish(bootstrap: Any, profile: str) -> None:
    bootstrap.VENV_PYTHON.parent.mkdir(parents=True, exist_ok=True)
    bootstrap.VENV_PYTHON.touch()
    plan = bootstrap.Plan.make(profile)
    bootstrap.STAMP.write_text(f'{{"key": "{plan.key}", "profile": "{profile}"}}')


def test_a_finished_setup_is_known_by_its_stamp(bootstrap: Any) -> None:
    assert not bootstrap.Plan.make("demo").done()
    finish(bootstrap, "demo")
    assert bootstrap.Plan.make("demo").done()
    assert not bootstrap.Plan.make("dev").done()
    finish(bootstrap, "dev")
    assert bootstrap.Plan.make("demo").done()


def test_what_is_set_up_again(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(bootstrap, "demo")
    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.org/cpu")
    assert bootstrap.Plan.make("demo").done(), "torch is there: its index is not asked again"
    monkeypatch.setenv("PENSTOCK_BUILD_NATIVE", "off")
    assert not bootstrap.Plan.make("demo").done()
    monkeypatch.delenv("PENSTOCK_BUILD_NATIVE")
    assert bootstrap.Plan.make("demo").done()
    with (bootstrap.ROOT / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert not bootstrap.Plan.make("demo").done()


def test_an_interrupted_install_is_made_again(
    bootstrap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(bootstrap, "demo")
    bootstrap.MARKER.write_text("-e .")
    half = bootstrap.VENV / "half-written"
    half.touch()
    assert not bootstrap.Plan.make("demo").done()
    bootstrap.make_venv()
    assert "interrupted" in capsys.readouterr().out
    assert not half.exists()
    assert not bootstrap.MARKER.exists()
    assert bootstrap.pip_works()


def test_a_full_disk_is_reported_before_anything_is_made(
    bootstrap: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "NEEDED_BYTES", 10**18)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "demo"])
    assert bootstrap.main() == 1
    assert "GiB are free" in capsys.readouterr().out
    assert not bootstrap.VENV.exists()


def test_an_interpreter_that_is_too_old_or_missing_is_named() -> None:
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "setup.sh")],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHON": "/no/such/python", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    assert "PYTHON=/no/such/python" in done.stderr
