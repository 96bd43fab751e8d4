"""The loop with its real parts on a small marketplace: door, training, bundle, server, trial, approval, rollback."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from cli.demo.market import Market
from relations.errors import GateRefused
from simulation.client import RecommendClient
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from simulation.traffic import Traffic
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.privacy import Mentions
from stores.settings import load_settings
from tasks.look_runs import look_runs

SMALL = Parameters(users=260, items=120, new_items_per_day=4, new_users_per_day=2, topics=4, subtopics_per_topic=3)
TOML = """
[home]
clock = "request"
[model]
width = 16
blocks = 1
max_history = 20
[train]
epochs = 8
[trial]
stages = ["compare"]
minimum_days = 0
n_max = 150
min_users = 40
deadline_days = 6
[serving]
flush_seconds = 0.2
poll_seconds = 0.1
"""


@contextmanager
def serving(home: Home) -> Iterator[str]:
    file = home.root / "ratchet.toml"
    command = [sys.executable, "-m", "serving.run", "--home", str(home.root), "--config", str(file), "--port", "0"]
    with (home.run / "serving.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not (home.run / "serving.json").exists():
                assert process.poll() is None, (home.run / "serving.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{json.loads((home.run / 'serving.json').read_text())['port']}"
        finally:
            process.terminate()
            process.wait(20)


def until(address: str, holds: Any) -> dict[str, Any]:
    """Serving's state once it holds; fails after 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            state: dict[str, Any] = json.load(answer)
        if holds(state):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_harness")
def test_from_raw_rows_to_a_promoted_model_and_back(home: Home) -> None:
    from flows.full_retrain import full_retrain
    from flows.incremental import incremental
    from flows.ingest import ingest
    from flows.promote import promote
    from flows.rollback import rollback
    from flows.trial import trial
    from tasks.deciding import bootstrap_champion
    from tasks.trials import start_trial

    (home.root / "ratchet.toml").write_text(TOML)
    settings = load_settings(home.root / "ratchet.toml")
    where = str(home.root)
    lake, ledger = Lake(home.lake), Ledger.of(home, settings)
    market = Market(home, 3, settings.policy)
    market.marketplace = Marketplace(SMALL, seed=3)
    market.traffic = Traffic(market.marketplace, seed=3)

    for _ in range(5):
        market.organic_day()
    ingest(where, now=market.now())
    accounts = [market.marketplace.account(day) for day in range(5)]
    receipts = lake.read("deliveries").to_pylist()
    events = [receipt for receipt in receipts if receipt["kind"] == "events"]
    assert sum(receipt["delivered"] for receipt in events) == sum(account.delivered for account in accounts)
    assert sum(receipt["accepted"] for receipt in events) == sum(account.genuine for account in accounts)
    assert sum(receipt["quarantined"] for receipt in events) == sum(sum(a.dirty.values()) for a in accounts)

    first = full_retrain(where, submitter="pipeline", now=market.now())
    assert first["passed"], first["verdict"]
    assert ledger.candidate() is None  # nobody is champion yet, so nobody descends from one
    bootstrap_champion(home, settings, first["version"], actor="ann", reason="first", now=market.now())
    again = full_retrain(where, submitter="pipeline", now=market.now())
    # Its rival is now the champion: another training, but of the same data to the same bits. One version a digest.
    assert (again["version"], again["digest"]) == (first["version"], first["digest"])
    for _ in range(3):
        market.organic_day()
    ingest(where, now=market.now())
    second = incremental(where, submitter="pipeline", now=market.now())
    assert second["digest"] != first["digest"]
    assert ledger.version(second["version"]).parent is not None
    idle = incremental(where, submitter="pipeline", now=market.now())
    if second["passed"]:
        assert idle["version"] is None
        assert "no new events" in idle["reason"]

    with serving(home) as address, RecommendClient(address) as client:
        until(address, lambda state: state["champion"]["digest"] == first["digest"])
        config = start_trial.fn(
            home,
            settings,
            challengers=(second["version"],),
            actor="pipeline",
            now=market.now(),
            allow_offline_worse=not second["passed"],
        )
        until(address, lambda state: (state["trial"] or {}).get("id") == config["trial_id"])
        verdict = "HOLD"
        for _ in range(6):
            played = market.trial_day(client)
            assert played.failed == played.refused == 0
            until(address, lambda state: state["pending_rows"] == 0)
            verdict = trial(where, trial=config["trial_id"], now=market.now())["verdict"]
            if verdict not in ("CONTINUE", "HOLD"):
                break
        assert verdict in ("PROMOTE", "REJECT", "INCONCLUSIVE")

        exposures = lake.read("exposures").to_pylist()
        served = {(row["variant"], row["digest"]) for row in exposures if row["trial"] == config["trial_id"]}
        assert served == {("champion", first["digest"]), ("challenger", second["digest"])}
        per_user: dict[str, set[str]] = {}
        for row in exposures:
            per_user.setdefault(row["user"], set()).add(row["variant"])
        assert all(len(arms) == 1 for arms in per_user.values())  # sticky

        if verdict == "PROMOTE":
            with pytest.raises(GateRefused):
                promote(where, config["trial_id"], "pipeline", "my own work", now=market.now())
            promote(where, config["trial_id"], "bob", "clicks rose", now=market.now())
            until(address, lambda state: state["champion"]["digest"] == second["digest"])
            rollback(where, "bob", "to see the way back", now=market.now())
            until(address, lambda state: state["champion"]["digest"] == first["digest"])
        else:
            with pytest.raises(GateRefused):
                promote(where, config["trial_id"], "bob", "wishful", now=market.now())
            until(address, lambda state: state["champion"]["digest"] == first["digest"])

    totals = lake.totals()
    parts = ("accepted", "quarantined", "duplicate", "late")
    assert totals["delivered"] == sum(totals[part] for part in parts)
    assert ledger.verify() == []
    runs = look_runs(home, config["trial_id"])
    assert [run.look for run in runs] == list(range(1, ledger.trial(config["trial_id"]).looks + 1))
    assert len({UUID(run.flow_run) for run in runs}) == len(runs)
    page = (home.reports / f"{config['trial_id']}.html").read_text()
    assert verdict in page
    assert "http" not in page.replace("http-equiv", "")  # no request to anywhere
    assert leaks(home, list(market.marketplace.people.ids)) == []


def leaks(home: Home, raw: list[str]) -> list[str]:
    """Files of the home, decoded where they are Parquet, in which one of the raw user ids stands as a whole word."""
    mentions, found = Mentions(raw), []
    for path in sorted(path for path in home.root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            data += str(pq.read_table(path).to_pylist()).encode()
        if mentions.within(data):
            found.append(str(path.relative_to(home.root)))
    return found
