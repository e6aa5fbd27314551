"""How the project starts workflows."""

from shop.celery import app
from workflow_engine import WorkflowClient

client = WorkflowClient(app=app)
