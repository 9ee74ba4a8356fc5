"""Pages that name tests and settings name those that there are."""

import ast
import math
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
FAULTS = (ROOT / "docs" / "faults.md").read_text()
# `file::test` or `file::test[case]`, below tests/.
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)(?:\[([^\]`]+)\])?`", FAULTS)
# Its default is said in words.
IN_WORDS = {"LOCAL_MODEL_THREADS"}


@cache
def defined_in(file: str) -> frozenset[str]:
    """Names of the tests in a file below tests/."""
    found = re.findall(r"^(?:async )?def (test_\w+)\(", (TESTS / file).read_text(), re.MULTILINE)
    return frozenset(found)


@cache
def words_of(file: str) -> frozenset[str]:
    """What a case of a test may be called: texts and names of functions in its file."""
    nodes = list(ast.walk(ast.parse((TESTS / file).read_text())))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    functions = {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return frozenset(functions | {text for text in texts if isinstance(text, str)})


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    assert len(NAMED) == FAULTS.count(".py::")
    assert [(file, name) for file, name, _ in NAMED if name not in defined_in(file)] == []


def test_every_case_that_the_page_of_faults_names_is_there() -> None:
    cases = [(file, case) for file, _, case in NAMED if case]
    assert [(file, case) for file, case in cases if case not in words_of(file)] == []


def test_every_test_of_faults_is_on_their_page() -> None:
    named = {(file, name) for file, name, _ in NAMED}
    files = [f"faults/{path.name}" for path in (TESTS / "faults").glob("test_*.py")]
    there = {(file, name) for file in files for name in defined_in(file)}
    assert len(there) > 30
    assert there - named == set()


def test_every_number_of_the_settings_is_the_documented_one() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[A-Z][^|]*) \| ([^|]*) \|", page, re.MULTILINE):
        told = zip(names.split(", "), defaults.split(", "), strict=False)
        documented.update((name.strip("`"), default.strip("`")) for name, default in told)
    settings = (ROOT / "config" / "settings.py").read_text()
    numbers = {
        name: str(math.prod(int(factor) for factor in default.split("*")))
        for name, default in re.findall(
            r'env\.(?:integer|seconds)\("(\w+)", ([\d_ *]+)\)', settings
        )
        if name not in IN_WORDS
    }
    assert len(numbers) > 20
    assert {name: documented.get(name) for name in numbers} == numbers
