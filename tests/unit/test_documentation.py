"""What the documents say about the repository is true: links lead somewhere, examples are accepted."""

import re
from pathlib import Path
from typing import Any

import pytest

from workflow_engine.node_types import NodeRegistry, RegisteredFunction
from workflow_engine.nodes import load_node_types
from workflow_engine.validation import validate_text

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
SIDE_OF_A_MERGE = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def registry() -> NodeRegistry:
    """The node types of this release, and functions such as the documents name."""
    known = NodeRegistry()
    for kind in load_node_types().kinds:
        known.add(load_node_types().get(kind))
    for name in ("charge", "rate", "approval", "delivered"):
        known.add_function(RegisteredFunction(f"shop.{name}", lambda **given: given))
    return known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]

    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_holds_two_versions_of_itself(document: Path) -> None:
    assert not SIDE_OF_A_MERGE.search(document.read_text())


@pytest.mark.parametrize("document", ["README.md", "docs/workflows.md", "docs/operations.md"])
def test_every_whole_workflow_in_a_document_is_valid(document: str, registry: NodeRegistry) -> None:
    definitions = [text for text in YAML.findall((ROOT / document).read_text()) if "nodes:" in text]

    assert definitions
    for text in definitions:
        validate_text(text, registry)


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


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    modules = {path.name for path in (ROOT / "workflow_engine").glob("*.py")} - {"__init__.py"}

    minor = {"model_problems.py", "problem_paths.py", "patience.py", "redis_connection.py"}
    assert {name for name in modules if name not in text} <= minor
