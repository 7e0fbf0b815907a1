"""Claims of the report, with the evidence for each and the commands that would decide it."""

from collections import Counter
from dataclasses import replace

from ablations.engine.request import Request
from reports.page.report import Data, Part, Report
from reports.results import Results, run_command
from reports.statistics import Status
from reports.verdicts import Verdict, command_for, status_text, verdict_counts

#: A mark of each verdict that is readable without colour.
MARKS: dict[Status, str] = {"holds": "✓", "fails": "✗", "undecided": "≈", "not testable": "–", "not run": "○"}


def claims(report: Report) -> Part:
    """The section of claims."""
    order = list(MARKS)
    lines = [
        claim_line(verdict, report.results)
        for verdict in sorted(report.verdicts, key=lambda verdict: order.index(verdict.status))
    ]
    statuses: Counter[Status] = Counter(verdict.status for verdict in report.verdicts)
    return Part(
        {
            "claims": lines,
            "decided": [line for status in ("holds", "fails") for line in lines if line["status"] == status],
            "accuracy_counts": verdict_counts(report.verdicts, costs=False),
            "cost_counts": verdict_counts(report.verdicts, costs=True),
            "verdicts": [{"status": s, "mark": mark, "count": statuses[s]} for s, mark in MARKS.items()],
            "marks": MARKS,
        }
    )


def claim_line(verdict: Verdict, results: Results) -> Data:
    """A claim for the page. An open one has the commands that would decide it, with three seeds at least."""
    claim, commands = verdict.claim, list[str]()

    def wanted(study: str) -> Request:
        more = 2 * (verdict.status == "undecided")
        return replace(results.request, seeds=max(3, results.seeds_of(study) + more))

    if claim.measurement is not None and verdict.status == "not run":
        commands = [outcome.text for outcome in verdict.outcomes]
    elif claim.not_run or any(not reason.startswith("single") for reason in verdict.reasons):
        pass  # more seeds do not decide it
    elif verdict.status in ("undecided", "not testable", "not run"):
        commands = list(dict.fromkeys(command_for(c, wanted(c.study)) for c in claim.comparisons))
        if claim.selection is not None:
            commands = [run_command(claim.selection.study, wanted(claim.selection.study))]
    return {
        "key": claim.key,
        "about": "costs" if claim.about_costs else "accuracy",
        "statement": claim.statement,
        "source": claim.source,
        "status": verdict.status,
        "shown": status_text(verdict),
        "leans": verdict.leans,
        "by_paper": verdict.by_paper,
        "commands": commands,
        "outcomes": [outcome.text for outcome in verdict.outcomes],
    }
