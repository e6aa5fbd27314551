"""The documents are true about the repository: links lead to files, and examples are accepted."""

import ast
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.repository import ROOT
from workflow_engine.definition.problems import check_model
from workflow_engine.definition.text import read_definition
from workflow_engine.expressions import Scope, compile_template
from workflow_engine.expressions.filters import FILTERS, FUNCTIONS, METHODS, TESTS
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.validation import validate_text

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
SIDE_OF_A_MERGE = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NODE = re.compile(r'^@node\("([\w.]+)".*\)\ndef \w+\(([^)]*)\)', re.MULTILINE)
ID = re.compile(r"^id: (\S+)", re.MULTILINE)
TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def registry() -> NodeRegistry:
    """Return the node types of this release, and the functions that the documents name."""
    known = NodeRegistry()
    for kind in load_node_types().kinds:
        known.add(load_node_types().get(kind))
    for name in {name for document in DOCUMENTS for name, _ in NODE.findall(document.read_text())}:
        known.add_function(RegisteredFunction(name, lambda **given: given))
    return known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]

    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_holds_two_versions_of_itself(document: Path) -> None:
    assert not SIDE_OF_A_MERGE.search(document.read_text())


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/first-node.md",
        "docs/workflows.md",
        "docs/celery-tasks.md",
        "docs/operations.md",
        "docs/coming-from.md",
        "docs/web-frameworks.md",
    ],
)
def test_every_whole_workflow_in_a_document_is_valid(document: str, registry: NodeRegistry) -> None:
    definitions = [text for text in YAML.findall((ROOT / document).read_text()) if "nodes:" in text]

    assert definitions
    for text in definitions:
        validate_text(text, registry)


@pytest.mark.parametrize("document", ["README.md", "docs/workflows.md", "docs/operations.md"])
def test_every_config_in_a_document_is_accepted_by_a_node_type(document: str, registry: NodeRegistry) -> None:
    texts = YAML.findall((ROOT / document).read_text())
    configs = [read_definition(text)["config"] for text in texts if text.startswith("config:")]

    for config in configs:
        kinds = [registry.get(kind) for kind in registry.kinds if kind.startswith("logic/")]
        assert any(not check_model(kind.config_model, config)[1] for kind in kinds), config
    assert configs or document != "docs/workflows.md"


@pytest.mark.parametrize("document", ["README.md", "docs/workflows.md"])
def test_the_same_workflow_in_python_gives_exactly_the_same_definition(
    document: str, registry: NodeRegistry
) -> None:
    text = (ROOT / document).read_text()
    in_yaml = next(text for text in YAML.findall(text) if "nodes:" in text)
    in_python = next(block for block in PYTHON.findall(text) if "WorkflowBuilder(" in block)
    names: dict[str, Any] = {}

    exec(in_python.partition("client =")[0], names)

    assert names["flow"].build().content_hash() == validate_text(in_yaml, registry).content_hash()


def test_every_feature_of_a_celery_task_names_a_test_that_exists() -> None:
    _, _, table = (ROOT / "docs/celery-tasks.md").read_text().partition("## Every feature of a task")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    existing = {name for file in ROOT.glob("tests/**/test_*.py") for name in TEST.findall(file.read_text())}

    named = [re.findall(r"`(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 25
    assert [row for row, names in zip(rows, named, strict=True) if not set(names) & existing] == []


def test_a_function_takes_the_same_arguments_in_every_document() -> None:
    found: dict[str, set[str]] = {}
    for file in [*DOCUMENTS, *ROOT.glob("examples/*.py")]:
        for name, parameters in NODE.findall(file.read_text()):
            taken = re.sub(r",? *\bcontext\b(: \w+)?,?\s*$", "", parameters.strip())
            found.setdefault(name, set()).add(re.sub(r"\s+", " ", taken))

    assert {"billing.charge", "shop.charge", "shop.pay", "parcels.label"} <= found.keys()
    assert {name: taken for name, taken in found.items() if len(taken) > 1} == {}


def test_a_workflow_id_belongs_to_one_document() -> None:
    homes: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        for text in YAML.findall(document.read_text()):
            for workflow_id in ID.findall(text):
                homes.setdefault(workflow_id, set()).add(document.name)
    for definition in ROOT.glob("examples/*.yaml"):
        homes.setdefault(ID.findall(definition.read_text())[0], set()).add(definition.name)

    assert "order-fulfilment" in homes
    assert {workflow_id: names for workflow_id, names in homes.items() if len(names) > 1} == {}


EVALUATED = re.compile(r"^\| `(\{\{.*\}\})` \| `(.*)` \|$", re.MULTILINE)


def test_every_expression_in_the_table_of_dates_has_the_value_beside_it() -> None:
    examples = EVALUATED.findall((ROOT / "docs/workflows.md").read_text())

    values = {
        text: compile_template(text.replace("\\|", "|")).evaluate(Scope(now=lambda: datetime(2026, 1, 31)))
        for text, _ in examples
    }
    assert len(examples) >= 7
    assert {text: str(value) for text, value in values.items()} == dict(examples)


@pytest.mark.parametrize("table", [FILTERS, TESTS, FUNCTIONS, METHODS])
def test_every_operation_of_expressions_is_documented(table: dict[str, Any]) -> None:
    _, _, section = (ROOT / "docs/workflows.md").read_text().partition("### Operations")
    named = set(re.findall(r"\w+", section.partition("\n## ")[0]))

    assert table.keys() <= named


STATION = re.compile(r"^\| \d \| \[`[^`]+`\]\(([^)]+)\) \| (`[^:,]+)", re.MULTILINE)
"""A file that a node execution passes through, and the names to look for there."""

VERSIONS = {ROOT / "workflow_engine/postgres/migrations/versions", ROOT / "workflow_engine/django/migrations"}
PACKAGES = sorted({path.parent for path in (ROOT / "workflow_engine").rglob("__init__.py")} - VERSIONS)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_says_in_its_docstring_what_each_of_its_files_is_about(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""

    assert docstring.partition("\n")[0].endswith("."), "its subject, in one sentence"
    named = set(re.findall(r"[a-z_0-9]+", docstring))
    assert {path.stem for path in package.glob("*.py")} - {"__init__"} <= named


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.name for path in PACKAGES if path.parent == ROOT / "workflow_engine"}

    assert {room for room in rooms if f"{room}/`" not in text} == set()


def test_the_way_of_a_node_is_found_in_at_most_eight_files_by_the_names_that_the_architecture_gives() -> None:
    document = ROOT / "docs/architecture.md"
    stations = STATION.findall(document.read_text())

    assert 0 < len(stations) <= 8
    for path, names in stations:
        text = (document.parent / path).read_text()
        assert not [name for name in re.findall(r"`(\w+)`", names) if not re.search(rf"\b{name}", text)], path


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_can_be_taken_in_at_a_glance(package: Path) -> None:
    files = [path for path in package.iterdir() if path.is_file()]

    assert len(files) <= (8 if package.name == "workflow_engine" else 15)
