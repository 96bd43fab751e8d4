"""Tune: search for better settings on the home's own events. Nothing is promoted, and no file is changed."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.opening import open_home
from flows.runs import settle_in
from tasks.tuning import plan_search, run_search, verdict


@flow(name="tune", log_prints=False, on_running=[settle_in])
def tune(
    home: str,
    config: str | None = None,
    metric: str = "",
    trials: int = 0,
    minutes: float = 0.0,
    seed: int | None = None,
) -> dict[str, Any]:
    """Search, compare the best settings with the present ones on rows that no trial saw, and say what to change."""
    place, settings = open_home(home, config)
    search = plan_search(place, settings, metric=metric, trials=trials, minutes=minutes, seed=seed)
    answer = run_search(place, settings, search)
    told = {**answer, "verdict": verdict(answer)}
    create_markdown_artifact(
        f"# {told['verdict']}\n\n```toml\n{answer['toml']}\n```\n", key="tune", description=told["verdict"]
    )
    rows = [
        {**{k: trial[k] for k in ("number", "state", "value", "epochs")}, **trial["params"]}
        for trial in answer["trials"]
    ]
    create_table_artifact(rows, key="tune-trials", description=answer["metric"])
    return told
