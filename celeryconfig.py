"""Celery's settings for the engine's own workers, from the engine's settings.

Postgres remembers what has to be done, so Celery is asked for nothing but fast, plain delivery: no
results, no redelivery by the broker, one message at a time. A team with an app of its own keeps its
settings and takes over what it likes; `workflow-engine doctor` says what is unsafe.
"""

from workflow_engine.settings import broker_transport as _transport
from workflow_engine.settings import broker_transport_options as _transport_options
from workflow_engine.settings import get_settings as _get_settings

_settings = _get_settings()

broker_url = _settings.effective_broker_url
broker_read_url = broker_write_url = broker_url  # which CELERY_BROKER_URL does not override
broker_transport = _transport(_settings)
broker_transport_options = _transport_options(_settings)
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives any outage of the broker
broker_channel_error_retry = True  # also of one that is full or read-only, which refuses single commands

task_default_queue = _settings.queue
task_serializer = "json"
accept_content = ["json"]
task_ignore_result = True
task_store_errors_even_if_ignored = False

task_acks_late = True  # what runs at shutdown is given back
task_reject_on_worker_lost = False  # the engine notices a lost process itself and counts it
worker_prefetch_multiplier = 1  # a message waits in the queue; workers/reserve.py knows when it need not
worker_disable_rate_limits = True
worker_soft_shutdown_timeout = 20  # seconds for running nodes, with REMAP_SIGTERM=SIGQUIT

task_send_sent_event = False
worker_hijack_root_logger = True
