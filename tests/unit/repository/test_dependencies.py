"""What is imported is there: packages are declared, and tests share helpers without importing each other."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from support.repository import ROOT, TESTS

NOT_NAMED_ALIKE = {"psycopg2": "psycopg2-binary", "yaml": "pyyaml"}
"""Distributions whose packages are called otherwise."""

OF_AN_EXTRA = {
    "opentelemetry": ("otel", "opentelemetry-api"),
    "prometheus_client": ("metrics", "prometheus-client"),
    "re2": ("regex", "google-re2"),
    "httpx2": ("http", "httpx2"),
    "httpcore2": ("http", "httpx2"),
}
"""Packages that come with an extra, which may be missing: the extra, and the distribution."""


OF_THE_PAGES = {"flower", "tornado"}
"""Packages that come with the extra `flower`, and that only the room of the pages imports."""

OF_DJANGO = {"django", "asgiref"}
"""Packages that come with the extra `django`, and that only the room for its projects imports."""


def test_every_package_that_the_engine_imports_comes_without_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {name.lower() for each in project["dependencies"] for name in re.split(r"[\[\]>]", each)}

    imported = {name for file in (ROOT / "workflow_engine").rglob("*.py") for name in imports_of(file)}

    missing = {name for name in imported if NOT_NAMED_ALIKE.get(name, name).replace("_", "-") not in declared}
    assert missing - sys.stdlib_module_names - {"workflow_engine"} == (
        OF_AN_EXTRA.keys() | OF_THE_PAGES | OF_DJANGO
    )


def test_the_pages_are_imported_only_by_who_starts_flower() -> None:
    importing = {
        file.relative_to(ROOT / "workflow_engine")
        for file in (ROOT / "workflow_engine").rglob("*.py")
        if re.search(
            r"^\s*(from|import) (flower|tornado)\b|workflow_engine\.flower\.", file.read_text(), re.M
        )
    }

    assert {path.parts[0] for path in importing} == {"flower"}


def test_django_is_imported_only_in_a_project_of_it() -> None:
    modules = list((ROOT / "workflow_engine").rglob("*.py"))
    importing = {
        file.relative_to(ROOT / "workflow_engine").parts[0]
        for file in modules
        if "django" in imports_of(file)
    }
    at_once = [
        file for file in modules if re.search(r"^from workflow_engine\.django\b", file.read_text(), re.M)
    ]

    assert importing == {"django"}
    assert {file.relative_to(ROOT / "workflow_engine").parts[0] for file in at_once} == {"django"}


@pytest.mark.parametrize("package", OF_AN_EXTRA)
def test_a_package_of_an_extra_is_imported_only_where_it_is_used(package: str) -> None:
    extra, distribution = OF_AN_EXTRA[package]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    importing = [file for file in (ROOT / "workflow_engine").rglob("*.py") if package in imports_of(file)]

    assert [Requirement(each).name for each in project["optional-dependencies"][extra]] == [distribution]
    assert importing
    for file in importing:
        at_once = [
            each for each in ast.parse(file.read_text()).body if isinstance(each, ast.Import | ast.ImportFrom)
        ]
        assert f"import {package}" not in ast.unparse(ast.Module(at_once, []))
        assert f"from {package} " not in ast.unparse(ast.Module(at_once, []))


@pytest.mark.parametrize("name", ["billiard", "celery", "kombu"])
def test_what_has_private_parts_that_are_used_is_bounded_by_the_release_after_the_tested_one(
    name: str,
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [declared] = [each for each in map(Requirement, project["dependencies"]) if each.name == name]
    bounds = {each.operator: Version(each.version) for each in declared.specifier}
    tested = Version(version(name))

    # `make lowest` tests the other end.
    assert tested == bounds[">="] or bounds["<"] == Version(f"{tested.major}.{tested.minor + 1}")


@pytest.mark.parametrize("tier", ["unit", "integration", "acceptance"])
def test_nothing_imports_from_a_tier_of_the_tests(tier: str) -> None:
    importing = {
        f"{file.relative_to(TESTS)}: {module}"
        for file in TESTS.rglob("*.py")
        for module in modules_of(file)
        if tier in module.removeprefix("tests.").split(".")[:1]
    }

    assert importing == set()


def imports_of(file: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    return {module.partition(".")[0] for module in modules_of(file)}


def modules_of(file: Path) -> set[str]:
    """Return all imports of a module that are executed, at any level of it."""
    names = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names
