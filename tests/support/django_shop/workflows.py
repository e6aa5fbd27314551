"""A definition in Python, beside those in the folder of this name."""

from workflow_engine import WorkflowBuilder

thanks = WorkflowBuilder("django-thanks")
thanks.trigger("asked") >> thanks.function("thanked", "{{ 'Thank you, ' ~ asked.name }}")
