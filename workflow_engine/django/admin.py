"""Executions in Django's admin: a list to filter and search, the graph of each, and what operators do.

To see them takes the permission `workflow_engine.view_execution`, to operate on them
`workflow_engine.operate`. Each operation asks for a reason, and the history names the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.text import Truncator

from workflow_engine.django import client
from workflow_engine.django.models import Execution
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.execution.states import Operation

COUNTED = 10_000
"""Rows that a list counts; counting all of a large table takes long."""
FOUND = 200
"""Executions that a search finds."""
ROWS = 300
"""Rows of the journal on a page, the last ones."""


class BoundedPaginator(Paginator):
    """Counts as many rows as anyone pages through."""

    @cached_property
    def count(self) -> int:
        """Return the number of rows, `COUNTED` at most."""
        return int(self.object_list.order_by()[:COUNTED].count())


class WorkflowFilter(admin.SimpleListFilter):
    """Executions of one workflow."""

    title = "workflow"
    parameter_name = "workflow"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the deployed workflows: to look through the executions for them takes long."""
        return [(each.id, each.name or each.id) for each in client().workflows()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the executions of the chosen workflow."""
        return queryset if self.value() is None else queryset.filter(workflow_id=self.value())


@admin.register(Execution)
class ExecutionAdmin(admin.ModelAdmin):
    """Shows executions; nothing is added, changed or deleted here."""

    list_display = ("id", "workflow_id", "status", "nodes_executed", "created_at", "duration_ms", "failure")
    list_filter = ("status", WorkflowFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("id",)
    search_help_text = "Words of an error, an idempotency key, a tag, an id or how it begins"
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_full_result_count = False
    change_form_template = "workflow_engine/execution.html"
    actions = ("pause", "resume", "cancel", "retry")
    exclude = ("parent",)

    class Media:
        css: ClassVar = {"all": ["workflow_engine/admin.css"]}

    @admin.display(description="error")
    def failure(self, execution: Execution) -> str:
        """Return the beginning of an execution's error."""
        return str(Truncator(execution.error or "").chars(80))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: executions are started by code."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        """Return False: executions are changed by operations."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        """Return False: old executions are purged."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether a user may operate on executions."""
        return bool(request.user.has_perm("workflow_engine.operate"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Search as `workflow-engine list --text` does, by indexes."""
        if not search_term.strip():
            return queryset, False
        try:
            found = client().list(text=search_term.strip(), archived=True, limit=FOUND)
        except WorkflowEngineError as error:
            self.message_user(request, str(error), messages.ERROR)
            return queryset.none(), False
        return queryset.filter(pk__in=[each.id for each in found]), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show an execution with its graph and journal."""
        context = dict(extra_context or {})
        execution = self.get_object(request, object_id)
        if execution is not None and self.has_view_permission(request, execution):
            context |= {
                "drawing": client().draw(str(execution.pk)),
                "journal": list(execution.nodes.order_by("-seq")[:ROWS])[::-1],
                "events": client().control.audit(str(execution.pk))[-ROWS:],
                "operations": self.actions if self.has_operate_permission(request) else (),
            }
        return super().change_view(request, object_id, form_url, context)

    @admin.action(permissions=["operate"], description="Pause: start no further node")
    def pause(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Pause executions."""
        return self._operate(request, queryset, Operation.PAUSE)

    @admin.action(permissions=["operate"], description="Resume")
    def resume(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Resume paused executions."""
        return self._operate(request, queryset, Operation.RESUME)

    @admin.action(permissions=["operate"], description="Cancel: end at once")
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Cancel executions."""
        return self._operate(request, queryset, Operation.CANCEL)

    @admin.action(permissions=["operate"], description="Retry from the node that failed")
    def retry(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Retry failed executions."""
        return self._operate(request, queryset, Operation.RETRY)

    def _operate(self, request: HttpRequest, queryset: QuerySet, operation: Operation) -> HttpResponse | None:
        """Ask for a reason, then operate; each execution by itself."""
        name = operation.value
        reason = request.POST.get("reason", "").strip()
        if not reason:
            return self._ask(request, queryset, name)
        done, refusals = 0, []
        for execution_id in map(str, queryset.values_list("pk", flat=True)):
            try:
                getattr(client().control, name)(
                    execution_id, reason=reason, actor=request.user.get_username()
                )
                done += 1
            except WorkflowEngineError as error:
                refusals.append(str(error))
        if done:
            what = "execution" if done == 1 else "executions"
            self.message_user(request, f"{name.capitalize()}: {done} {what}.", messages.SUCCESS)
        for refusal in refusals:
            self.message_user(request, refusal, messages.ERROR)
        return None

    def _ask(self, request: HttpRequest, queryset: QuerySet, name: str) -> HttpResponse:
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": f"{name.capitalize()} executions",
            "operation": name,
            "opts": self.model._meta,
            "executions": queryset,
            "without_reason": "reason" in request.POST,
            "media": self.media,
        }
        return TemplateResponse(request, "workflow_engine/operate.html", context)


__all__: Sequence[str] = ["ExecutionAdmin"]
