"""The Python calls of a hop are counted from one to the next."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import python_calls
from benchmarks.python_calls import Calls
from support.repository import ROOT

PROCESS = """
import sys
from celery.signals import worker_process_init
import benchmarks.python_calls

def one(): pass
def run_node(calls):
    for _ in range(calls): one()
run_node = type(run_node)(run_node.__code__.replace(co_filename="workflow_engine/worker/tasks.py"), globals())
one = type(one)(one.__code__.replace(co_filename="workflow_engine/runner/limits.py"), globals())

worker_process_init.send(sender=None)
for calls in (1000, 3, 3, 2, 3, 0):
    run_node(calls)
sys.setprofile(None)
"""


def test_the_median_hop_stands_for_all(tmp_path: Path) -> None:
    environment = {**os.environ, python_calls.FOLDER_VARIABLE: str(tmp_path), "PYTHONPATH": str(ROOT)}

    subprocess.run([sys.executable, "-c", PROCESS], env=environment, check=True)

    assert python_calls.of_median_hop(tmp_path) == Calls(all=4, of_limits=3)
