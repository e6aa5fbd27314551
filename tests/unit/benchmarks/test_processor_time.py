"""Processor time is read as exactly as the system counts it."""

import os
import sys
import time

import pytest

from benchmarks.processor_time import ProcessorTime


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is read in hundredths of a second")
def test_a_millisecond_of_work_is_seen() -> None:
    began = time.process_time()
    before, seconds = ProcessorTime.of(os.getpid()).total, time.process_time()
    while time.process_time() < seconds + 0.001:
        pass
    spent = ProcessorTime.of(os.getpid()).total - before

    assert 0.001 <= spent <= time.process_time() - began
