"""Hops over RabbitMQ are measured, small, and nothing is written; how fast they are is not judged here."""

import re
import subprocess
import sys

import pytest

from support.repository import ROOT
from workflow_engine.embedded.rabbitmq import rabbitmq_programs

pytestmark = pytest.mark.services

DOCUMENT = ROOT / "docs" / "scaling.md"
ROW = re.compile(r"^\| (.+?) +\| +(\S.*?) +\|", re.MULTILINE)


@pytest.mark.skipif(rabbitmq_programs() is None, reason="this machine has no RabbitMQ")
def test_a_quick_run_compares_hops_over_rabbitmq_with_celerys_own() -> None:
    before = DOCUMENT.read_text()
    command = [sys.executable, "-m", "benchmarks", "brokers", "--quick"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    figures = dict(ROW.findall(done.stdout))
    assert float(figures["- throughput, relative to the chain"].split()[0]) > 0
    assert float(figures["- of RabbitMQ besides"].split()[0]) > 0
    assert DOCUMENT.read_text() == before
