"""`dev`: everything that your own nodes need while you write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from workflow_engine.cli.extras import require_flower
from workflow_engine.cli.invocation import Invocation, command


@command("dev")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".workflow-engine"),
    show_default=True,
    help="Where the servers keep their data between runs.",
)
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=2, show_default=True, help="Processes of the worker."
)
@click.option("--flower/--no-flower", "with_flower", default=True, help="Start Flower too.  [default: yes]")
def dev(
    invocation: Invocation, modules: Sequence[str], folder: Path, concurrency: int, with_flower: bool
) -> int:
    """Run your own nodes while you write them.

    Starts Postgres and Redis (unless the settings name servers), a worker that imports MODULE, and Flower.
    The worker restarts whenever a Python file here changes. Ctrl-C ends everything; the data is kept.

    \b
    workflow-engine dev shop.nodes
    workflow-engine dev -A shop
    """
    from workflow_engine import dev as development

    if with_flower:
        require_flower(instead="do without it with --no-flower")
    settings = invocation.settings
    queues: tuple[str, ...] = ()
    if invocation.app is not None:
        queues = (invocation.app.conf.task_default_queue, settings.queue)
    options = development.Options(
        modules=tuple(dict.fromkeys((*settings.imports, *modules))),
        app=invocation.app_name,
        queues=queues,
        folder=folder,
        concurrency=concurrency,
        with_flower=with_flower,
    )
    status = development.run(options, lambda line: click.echo(line, err=invocation.as_json))
    if invocation.as_json:
        invocation.output({"exitStatus": status})
    return status
