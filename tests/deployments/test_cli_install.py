"""What `pip install .` takes along: the client alone, with what it needs and no more."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the modules that setuptools packs, built from a copy of the project."""
    source = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", source)
    shutil.copytree(
        ROOT / "deployments",
        source / "deployments",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    code = "import setuptools; setuptools.setup()"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "-q", "build", "--build-lib", "lib"],
        cwd=source,
        check=True,
        timeout=120,
    )
    return source / "lib"


def run(installed: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=installed.parent.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_only_the_client_and_its_pure_rules_are_packed(installed: Path) -> None:
    packed = {str(path.relative_to(installed)) for path in installed.rglob("*.py")}
    client = {str(path.relative_to(ROOT)) for path in (ROOT / "deployments" / "cli").glob("*.py")}
    assert packed == client | {"deployments/__init__.py", "deployments/variables.py"}


def test_the_installed_command_works(installed: Path) -> None:
    module, _, name = PROJECT["scripts"]["aigw"].partition(":")
    code = f"from {module} import {name} as run; run(prog_name='aigw')"
    result = run(installed, code, "validate", str(ROOT / "examples" / "chat-app"))
    assert result.returncode == 0, result.stderr
    assert "looks right" in result.stdout


def test_everything_it_imports_is_declared() -> None:
    imported = set()
    for path in (ROOT / "deployments" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    foreign = imported - set(sys.stdlib_module_names) - {"deployments"}
    declared = {re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in PROJECT["dependencies"]}
    assert foreign == declared
