"""Online learning: one step on what arrived since the last, under a person's standing approval."""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.opening import open_home
from stores.clock import home_now
from tasks.online import OnlineReport, take_online_step


@flow(name="online", log_prints=False)
def online(home: str, config: str | None = None, now: datetime | None = None) -> dict[str, Any]:
    """Learn from the newest events, judge, publish a delta of the champion. Without an approval or news, says so."""
    place, settings = open_home(home, config)
    report: OnlineReport = take_online_step(place, settings, now=now or home_now(place, settings))
    create_markdown_artifact(_markdown(report), key="online-step", description=report.state)
    return report.as_json()


def _markdown(report: OnlineReport) -> str:
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in report.figures.items())
    told = f"# Online step: {report.state}\n\n{report.reason}\n"
    return told + (f"\nDelta {report.sequence}, digest `{report.digest}`\n\n| | |\n|---|---|\n{rows}\n" if rows else "")
