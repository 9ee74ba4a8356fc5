"""What is committed under examples/ can be deployed as it is, and is what its sources say."""

import hashlib
from pathlib import Path

import pytest

from deployments.cli import validation
from deployments.cli.bundle import open_bundle

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/config.json"))
BUNDLES = [
    folder / "bundle.zip" if (folder / "bundle.zip").exists() else folder for folder in FOLDERS
]
BUILT = sorted(path.parent for path in EXAMPLES.glob("*/built.sha256"))
NOT_PART = {"README.md", "built.sha256"}
# What npm and `next dev` leave behind in a folder that somebody works in.
LEFTOVERS = {"node_modules", ".next", ".open-next"}


def name_of(path: Path) -> str:
    return path.relative_to(EXAMPLES).as_posix()


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_validation_finds_nothing(bundle: Path) -> None:
    assert validation.check(open_bundle(bundle)) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_readme_says_how_to_deploy_it_and_what_to_change(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert f"python -m deployments.cli deploy examples/{folder.name}" in text
    assert f"[{folder.name}]({folder.name}/)" in (EXAMPLES / "README.md").read_text()


def recorded(folder: Path) -> dict[str, str]:
    """What the build script noted: name -> SHA-256, of sources and of what came out."""
    lines = (folder / "built.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


@pytest.mark.parametrize("folder", BUILT, ids=name_of)
def test_what_was_built_is_of_these_sources_and_unchanged(folder: Path) -> None:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    present = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if name not in NOT_PART and not LEFTOVERS & set(name.split("/"))
    }
    assert recorded(folder) == present, f"Run {name_of(folder)}/build.sh and commit what it writes."


def test_there_is_something_built() -> None:
    assert [name_of(folder) for folder in BUILT] == ["ai-sdk-chat", "nextjs-opennext"]


def test_the_stylesheet_of_the_static_site_is_named_by_its_content() -> None:
    (stylesheet,) = (EXAMPLES / "static-site/static/assets").iterdir()
    digest = hashlib.sha256(stylesheet.read_bytes()).hexdigest()
    assert stylesheet.name == f"site.{digest[:8]}.css"
    for page in (EXAMPLES / "static-site/static").rglob("*.html"):
        assert f'href="/assets/{stylesheet.name}"' in page.read_text()
