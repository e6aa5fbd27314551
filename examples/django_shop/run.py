"""Run the shop, kill its worker in the middle of a chain and of a chord, and show what became of the orders.

    python run.py              the shop as it is
    python run.py --durable    the shop with durable.patch

Postgres and Redis are started beside it, with a worker of two processes and Django's own server. After both
kills the shop stays up until Ctrl-C; with --once it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import redis

from workflow_engine.demo.processes import DemoFailed, Interrupted, Interruption, Processes
from workflow_engine.embedded import EmbeddedServers

HERE = Path(__file__).parent
BANK_SECONDS = 3
"""Enough to kill the worker while it charges an order."""
PATIENCE = 90
"""Seconds in which everything that is waited for has to happen."""
WORKER, WEBSITE = "worker", "website"


class Shop:
    """The shop in a folder, with its worker and its website."""

    def __init__(self, folder: Path, servers: EmbeddedServers, interruption: Interruption) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self._folder = folder
        self._redis = redis.Redis.from_url(servers.redis_url)
        self._interruption = interruption
        # What is set for other projects of Celery or of the engine is not meant for this one.
        others = ("CELERY_", "DJANGO_", "WORKFLOW_ENGINE_")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(others)},
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "BANK_SECONDS": str(BANK_SECONDS),
            "PYTHONUNBUFFERED": "1",
        }
        self._processes = Processes(folder, self._environment)

    def start(self) -> None:
        self._manage("migrate", "--verbosity", "0")
        site = [sys.executable, "manage.py", "runserver", "--noreload", self.address]
        self._processes.start(WEBSITE, site)
        self.until("the website is up", lambda: self.status(0) is None)
        self.start_worker()

    def start_worker(self) -> None:
        (self._folder / f"{WORKER}.log").unlink(missing_ok=True)
        options = ["--concurrency", "2", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        self._processes.start(WORKER, [sys.executable, "-m", "celery", "-A", "shop", "worker", *options])
        self.until("the worker is ready", lambda: " ready." in self._processes.log(WORKER))

    def kill_worker(self) -> None:
        """Kill the worker with its pool, as the kernel does when memory runs out."""
        os.killpg(self._processes.pid(WORKER), signal.SIGKILL)
        self._processes.stop(WORKER)

    def stop(self) -> None:
        self._processes.stop()

    def test(self) -> None:
        """Run the shop's own tests."""
        self._manage("test")

    def place_order(self, customer: str) -> int:
        """Order as a customer does, and return the id of the order."""
        return int(self._post("/orders", customer=customer)["order"])

    def renew_orders(self) -> list[int]:
        """Renew all orders that were confirmed, and return their ids."""
        return list(self._post("/renewals")["orders"])

    def status(self, order_id: int) -> str | None:
        """Return how far an order has come; None if there is no such order."""
        try:
            with urlopen(f"http://{self.address}/orders/{order_id}") as response:
                return str(json.load(response)["status"])
        except HTTPError:
            return None

    def have(self, status: str, order_ids: list[int]) -> bool:
        """Return whether all these orders have come this far."""
        return all(self.status(each) == status for each in order_ids)

    def has_nothing_to_do(self) -> bool:
        """Return whether Celery has no message left, and the worker that was started last got none."""
        has_messages = self._redis.llen("celery") or self._redis.hlen("unacked")
        return not has_messages and " received" not in self._processes.log(WORKER)

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises DemoFailed, with the logs, if it takes too long."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(URLError):
                if condition():
                    return
            self._processes.check()
            self._interruption.pause(0.1)
        raise DemoFailed(f"not within {PATIENCE} s: {what}\n{self._processes.log_ends()}")

    def _manage(self, *command: str) -> None:
        line = [sys.executable, "manage.py", *command]
        subprocess.run(line, cwd=self._folder, env=self._environment, check=True)

    def _post(self, path: str, **form: str) -> Any:
        with urlopen(f"http://{self.address}{path}", urlencode(form).encode()) as response:
            return json.load(response)


def copy_shop(folder: Path, *, durable: bool) -> Path:
    """Copy the shop into a folder, with the patch if it is to be durable, and return where it is."""
    shop = folder / "shop"
    shutil.copytree(HERE, shop, ignore=shutil.ignore_patterns("__pycache__", "run.py"))
    if durable:
        # In a repository, git would look for the files from its root.
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder)}
        subprocess.run(["git", "apply", "durable.patch"], cwd=shop, env=alone, check=True)
    return shop


def kill_worker_in_both(shop: Shop, *, durable: bool) -> None:
    """Kill the worker in the middle of a chain, then of a chord, and say what became of the orders."""
    kill_worker_while_it_charges(shop, "the chain", [shop.place_order("ada")], durable=durable)
    others = [shop.place_order("grace"), shop.place_order("edith")]
    shop.until("two other orders are confirmed", lambda: shop.have("CONFIRMED", others))
    kill_worker_while_it_charges(shop, "the chord", shop.renew_orders(), durable=durable)


def kill_worker_while_it_charges(shop: Shop, canvas: str, order_ids: list[int], *, durable: bool) -> None:
    shop.until("orders are being charged", lambda: shop.have("CHARGING", order_ids[:2]))
    shop.kill_worker()
    say(f"kill -9 of the worker in the middle of {canvas}, while it charges {named(order_ids[:2])}")
    shop.start_worker()
    ready = time.monotonic()
    shop.until(
        "the orders are confirmed or lost",
        lambda: shop.have("CONFIRMED", order_ids) or (not durable and shop.has_nothing_to_do()),
    )
    if shop.have("CONFIRMED", order_ids):
        seconds = time.monotonic() - ready
        say(f"  {named(order_ids)}: CONFIRMED, {seconds:.0f} s after another worker was ready")
    else:
        left = " and ".join(sorted({str(shop.status(each)) for each in order_ids}))
        say(f"  {named(order_ids)}: LOST. {left} for ever: another worker is ready, and no message is left")


def named(order_ids: list[int]) -> str:
    return f"order{'s' if len(order_ids) > 1 else ''} {', '.join(map(str, order_ids))}"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--durable", action="store_true", help="with durable.patch")
    parser.add_argument("--once", action="store_true", help="end after both kills")
    parser.add_argument("--test", action="store_true", help="run the shop's own tests instead")
    options = parser.parse_args()
    with (
        Interruption() as interruption,
        tempfile.TemporaryDirectory(prefix="django-shop-") as folder,
        EmbeddedServers() as servers,
    ):
        shop = Shop(copy_shop(Path(folder), durable=options.durable), servers, interruption)
        try:
            if options.test:
                shop.test()
                return 0
            say(f"Starting the shop {'with durable.patch' if options.durable else 'as it is'}")
            shop.start()
            kill_worker_in_both(shop, durable=options.durable)
            if not options.once:
                say(f"\nThe shop is open until Ctrl-C: curl -d customer=ada http://{shop.address}/orders")
                while True:
                    interruption.pause(1)
        except Interrupted:
            return 0
        except DemoFailed as error:
            say(str(error))
            return 1
        finally:
            shop.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
