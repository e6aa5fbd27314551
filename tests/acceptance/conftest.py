"""Workers for the tests: a pair that all share, and fleets of their own for tests that do harm.

The fixtures of pytest-celery that start containers are overridden with process-backed ones of the same
names, so the plugin never looks for Docker; its tests' vocabulary (`celery_worker_cluster`,
`celery_broker_cluster`) is the one used here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from fleet import Fleet, embedded_broker, poll
from key_leak_checker import keys_that_never_expire
from pytest_celery import CeleryBrokerCluster, CeleryTestBroker, CeleryWorkerCluster

from workflow_engine import Settings
