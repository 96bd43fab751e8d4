"""Upkeep of the lake as a flow, on a schedule; by hand: `python -m flows.maintenance --home DIR`."""

import argparse
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.opening import open_home
from flows.runs import settle_in
from stores.home import Home
from stores.settings import Settings
from tasks.maintaining import TableUpkeep, as_json, maintain_lake, report_markdown


@task(name="maintain", cache_policy=NO_CACHE)
def maintain(home: Home, settings: Settings) -> list[TableUpkeep]:
    return maintain_lake(home, settings)


@flow(name="maintenance", log_prints=False, on_running=[settle_in])
def maintenance(home: str, config: str | None = None) -> dict[str, Any]:
    """Compact the tables, drop what no current version needs and is older than [lake] keep_days, trim their logs."""
    place, settings = open_home(home, config)
    done = maintain(place, settings)
    create_markdown_artifact(report_markdown(place, settings, done), key="maintenance")
    return {"tables": as_json(done)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True)
    parser.add_argument("--config")
    stated = parser.parse_args()
    maintenance(stated.home, config=stated.config)


if __name__ == "__main__":
    main()
