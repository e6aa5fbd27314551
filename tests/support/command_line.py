"""The command line as users and scripts call it."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from workflow_engine.cli import main


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process. Raise what it raises, unless it ends with an exit status."""
    result = CliRunner().invoke(main, arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*arguments: str, status: int = 0) -> Any:
    """Run a command with `--json`. Return its standard output, which has to be one JSON document."""
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)
