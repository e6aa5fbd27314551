"""`ui`: Flower with the engine's pages, for where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import click

from workflow_engine.cli.extras import require_flower
from workflow_engine.cli.invocation import Invocation, command

ENGINES_APP = "workflow_engine.worker"


@command("ui")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[FLOWER OPTIONS]...")
def ui(invocation: Invocation, options: Sequence[str]) -> None:
    """Start Flower with the pages of executions, workflows, statistics and queues.

    All options of Flower may follow: --port (5555), --basic-auth=NAME:PASSWORD, --url-prefix, and so on. The
    address is 127.0.0.1 unless one is given. Task events stay off, as the pages need none and events cost
    throughput; --enable-events=True turns them on for Flower's list of tasks. Without a sign-on the pages
    only show.

    \b
    workflow-engine ui --basic-auth=ann:secret
    workflow-engine -A shop ui --port=8888
    """
    require_flower()
    from workflow_engine import flower

    _ = invocation.settings  # reports a wrong one
    flower.run(invocation.app_name or ENGINES_APP, options)


ui.ignore_unknown_options = True  # Flower reads them
