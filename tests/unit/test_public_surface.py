"""Public names are listed in one place, can be imported, and load nothing that is not used."""

import subprocess
import sys

import pytest

import workflow_engine


@pytest.mark.parametrize("name", workflow_engine.__all__)
def test_every_listed_name_can_be_imported(name: str) -> None:
    assert getattr(workflow_engine, name) is not None


def test_the_list_of_names_and_the_homes_of_names_are_the_same() -> None:
    assert sorted(workflow_engine.__all__) == sorted(workflow_engine._MODULES)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Wokflow'"):
        workflow_engine.Wokflow  # noqa: B018


def test_declaring_a_node_loads_neither_database_nor_celery() -> None:
    program = (
        "import sys; from workflow_engine import node\n"
        "assert not {'sqlalchemy', 'redis', 'celery', 'kombu'} & set(sys.modules), sorted(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
