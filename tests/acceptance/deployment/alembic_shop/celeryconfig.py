"""The team's settings of Celery, under the name that Celery imports by itself."""

import os

broker_url = os.environ["BROKER_URL"]
task_default_queue = "shop"
task_ignore_result = True
