"""Celery's settings for the engine's own workers, from the engine's settings.

Postgres records what has to be done, so Celery need only deliver messages fast: no results, no redelivery by
the broker, one message at a time. A team with an app of its own keeps its settings and takes over the ones it
likes; `workflow-engine doctor` reports the unsafe ones.
"""

from workflow_engine.errors import SettingsInvalid as _SettingsInvalid
from workflow_engine.settings import get_settings as _get_settings

try:
    _settings = _get_settings()
    _broker = _settings.broker_configuration()
except _SettingsInvalid as _error:
    raise SystemExit(f"This worker does not start: {_error}") from None

broker_url = _broker["broker_url"]
broker_read_url = broker_write_url = broker_url  # which CELERY_BROKER_URL does not override
broker_use_ssl = _broker["broker_use_ssl"]  # verifies rediss:// and amqps://
broker_transport = _broker["broker_transport"]
broker_transport_options = _broker["broker_transport_options"]
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives any outage of the broker
broker_channel_error_retry = True  # also after a broker that is full or read-only refuses a single command

task_default_queue = _settings.queue
task_serializer = "json"
accept_content = ["json"]
task_ignore_result = True
task_store_errors_even_if_ignored = False

task_acks_late = True  # a node that runs at shutdown is requeued
task_reject_on_worker_lost = False  # the engine notices a lost process itself and counts it
worker_prefetch_multiplier = 1  # celery_internals/prefetch.py decides when another message may come
workflow_engine_celery_internals = True  # this is the engine's own app; others turn them on by the setting
worker_disable_rate_limits = True
worker_soft_shutdown_timeout = 20  # seconds for running nodes, with REMAP_SIGTERM=SIGQUIT

task_send_sent_event = False
worker_hijack_root_logger = True
