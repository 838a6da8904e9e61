"""SECURITY.md promises nothing that no test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGES, sources

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)


def promises() -> list[tuple[str, str]]:
    """The rows of the table: promise and tests."""
    section = TEXT.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [(promise.strip(), tests.strip()) for promise, tests in rows[2:]]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("promise", "tests"), promises())
def test_every_promise_names_a_test(promise: str, tests: str) -> None:
    assert re.fullmatch(r"(`tests/[\w/]+\.py::test_\w+` ?)+", tests), promise


def test_the_table_is_found() -> None:
    assert len(promises()) > 10
    assert len(NAMED) >= len(promises())


def test_links_to_it_lead_there() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(
            r"\]\(([^)#]*[Ss][Ee][Cc][Uu][Rr][Ii][Tt][Yy]\.md)", page.read_text()
        ):
            assert (page.parent / link).resolve() == ROOT / "SECURITY.md", page


@pytest.mark.parametrize("package", PACKAGES)
def test_no_code_of_a_model_repository_is_run(package: str) -> None:
    for file in sources(package):
        assert not re.search(r"trust_remote_code\s*=\s*True", (ROOT / file).read_text("utf-8"))
