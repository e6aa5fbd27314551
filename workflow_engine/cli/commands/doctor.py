"""`doctor`: prints the doctor's findings, one line for each question."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, as_object, command, importing
from workflow_engine.health.doctor import Finding, Severity, examine
from workflow_engine.presentation.phrases import quantity, sanitise

MARKS = {
    Severity.OK: ("✔", "green"),
    Severity.WARNING: ("!", "bold yellow"),
    Severity.PROBLEM: ("✘", "bold red"),
}


@command("doctor")
def doctor(invocation: Invocation) -> ExitStatus:
    """Check servers, workers and settings, with advice for each problem.

    Asks Postgres, Redis, the broker and all workers, for ten seconds at most, and looks for the code that
    deployed workflows need. The exit status is 1 if there is a problem; with warnings alone it is 0.
    """
    invocation.load_tasks()
    with importing(), invocation.busy("Asking the servers and the workers"):
        findings = examine(invocation.settings, app=invocation.app)
    counts = {severity: _count(findings, severity) for severity in Severity}
    is_fit = not counts[Severity.PROBLEM]
    values = [
        {"topic": topic, **as_object(finding)} for topic, group in findings.items() for finding in group
    ]
    invocation.output(
        {"fit": is_fit, "findings": values}, *_draw(findings, invocation.console.width), _verdict(counts)
    )
    return ExitStatus.YES if is_fit else ExitStatus.NO


def _count(findings: Mapping[str, Sequence[Finding]], severity: Severity) -> int:
    return sum(finding.severity is severity for group in findings.values() for finding in group)


def _draw(findings: Mapping[str, Sequence[Finding]], width: int) -> Iterator[Text]:
    wide = max(len(finding.question) for group in findings.values() for finding in group)
    for topic, group in findings.items():
        yield Text(sanitise(topic), "bold")
        for finding in group:
            mark, style = MARKS[finding.severity]
            line = Text.assemble("  ", (mark, style), f" {finding.question:{wide}}  ")
            answer = _wrap(finding.answer, line.cell_len, width)
            yield line.append(answer, "" if finding.severity is Severity.OK else style)
            if finding.advice:
                yield Text(f"    → {_wrap(finding.advice, 6, width)}")
        yield Text()


def _wrap(text: str, indent: int, width: int) -> str:
    """Wrap a text; its further lines begin below its first one, at column `indent`."""
    lines = textwrap.wrap(sanitise(text), max(20, width - indent), break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


def _verdict(counts: Mapping[Severity, int]) -> Text:
    problems, warnings = counts[Severity.PROBLEM], counts[Severity.WARNING]
    if not problems and not warnings:
        return Text("All is well.", "green")
    total = f"{quantity(problems, 'problem')}, {quantity(warnings, 'warning')}."
    return Text(total, "bold red" if problems else "bold yellow")
