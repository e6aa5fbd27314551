"""Pages inside Flower: executions, workflows, statistics and queues, beside its workers and tasks.

- `installation`: adds the pages to Flower, also to one that starts in this process
- `template_loader`: Flower's templates with links to the pages
- `desk`: the engine as the pages use it
- `page`: what every page does: sign-on, headers, threads, errors; `assets` are its style sheet and script
- `pages/`: the pages
- `drawing/`: graphs, timelines and JSON values for a browser
- `forms`: the form with which a workflow is started
- `actions`: what operators may do, the forms of it, and when it is possible
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

__all__ = ["add_pages", "add_pages_if_flower_starts", "run"]

DEFAULTS = ("--address=127.0.0.1", "--enable-events=False")
"""Options of Flower, unless others are given: this machine only, and no load on the workers."""


def add_pages() -> None:
    """Add the pages to the Flower that starts in this process; for `flowerconfig.py`."""
    from workflow_engine.flower.installation import install

    install()


def add_pages_if_flower_starts() -> None:
    """Add the pages if this process runs `celery … flower`, and cost any other process nothing."""
    import click

    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().invoked_subcommand == "flower":
        add_pages()


def run(app: str, options: Sequence[str]) -> None:
    """Run `celery -A APP flower` with the pages in this process, until it is interrupted."""
    add_pages()
    sys.argv = ["celery", "-A", app, "flower", *DEFAULTS, *options]
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
