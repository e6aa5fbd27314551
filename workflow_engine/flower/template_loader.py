"""Loads the pages' templates, and Flower's own with two links added: to the pages, and to a task's execution.

The links are inserted where Flower's templates have a known line. A release of Flower without that line keeps
its template as it is, and only lacks the link.
"""

from __future__ import annotations

from pathlib import Path

from tornado.template import BaseLoader, Template

TEMPLATES = Path(__file__).with_name("templates")

INSERTIONS = {
    "navbar.html": ("</ul>", '{% include "engine_navigation.html" %}'),
    "task.html": ('<div class="detail-actions">', '{% include "engine_task_link.html" %}'),
}
"""Flower's template → the line, and what stands before it."""


class TemplateLoader(BaseLoader):
    """Finds templates in the pages' folder first, then in Flower's."""

    def __init__(self, flowers_templates: str) -> None:
        super().__init__()
        self._flowers_templates = Path(flowers_templates)

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Return the name: templates lie in one folder."""
        return name

    def _create_template(self, name: str) -> Template:
        ours = TEMPLATES / name
        path = ours if ours.is_file() else self._flowers_templates / name
        text = path.read_text(encoding="utf-8")
        if (insertion := INSERTIONS.get(name)) is not None:
            line, inserted = insertion
            text = text.replace(line, f"{inserted}\n{line}", 1)
        return Template(text, name=name, loader=self)
