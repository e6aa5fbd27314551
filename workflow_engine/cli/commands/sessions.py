"""`ui`, `dev` and `demo`: commands that run until they are interrupted, with programs of their own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

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


@command("demo")
@click.option("--once", is_flag=True, help="Exit when all executions have ended.")
@click.option(
    "--orders", type=click.IntRange(min=1), default=200, show_default=True, help="How many to start."
)
def demo(invocation: Invocation, once: bool, orders: int) -> int:
    """Run an example on real workers and watch it.

    Starts Postgres, Redis, two workers and Flower, and one execution for each order; stops everything at the
    end. On a terminal it runs until Ctrl-C. The exit status is 0 only if every execution completed.
    """
    from workflow_engine import demo as example

    require_flower()
    _ = invocation.settings  # a malformed setting is refused before anything is started
    # With --json, standard output has the outcome alone, so the screen moves to standard error.
    with contextlib.redirect_stdout(sys.stderr) if invocation.as_json else contextlib.nullcontext():
        status = example.run(once=once or invocation.as_json, orders=orders)
    if invocation.as_json:
        invocation.output({"completed": status == 0, "exitStatus": status})
    return status
