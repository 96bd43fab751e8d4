"""What befalls runs: those that an outage missed become one, and those whose process was killed are ended.

`settle_in` is the `on_running` hook of every flow with a schedule, so that it holds wherever the run is started: by
`ratchet up`, by a worker of a pool, or by the command line.
"""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from stores.home import Home
from stores.turns import lives, sign_of_life, sweep_signs

PROCESS = "ratchet.process"
"""Label of a run: the sign of life of the process that it runs in."""
UNSIGNED = timedelta(hours=1)
"""A run that is under way for longer than this without a sign of life never came to its first line."""
PAGE = 200
"""As many runs as the API gives at once."""


def settle_in(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A run begins: it shows a sign of life, stands in for those that were missed, and ends those that were killed."""
    root = Path(str(flow_run.parameters.get("home", "")))
    if not (root / "home.json").exists():
        return  # the flow itself says what is wrong with it
    home = Home.open(root)
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {PROCESS: sign_of_life(home)})
        stand_in(flow_run, client=client)
        reap_killed(home, client=client)


def stand_in(run: FlowRun, *, client: SyncPrefectClient) -> int:
    """Cancel the runs of the same deployment that its schedule asked for up to now; returns how many.

    What people or events asked for, with parameters of their own, stays.
    """
    if run.deployment_id is None:
        return 0
    missed = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    message = f"Missed, and one run does the work of all that were: {run.name} ({run.id})"
    now, done = datetime.now(UTC), 0
    for each in _all(client, missed):
        if each.auto_scheduled and each.next_scheduled_start_time and each.next_scheduled_start_time <= now:
            client.set_flow_run_state(each.id, Cancelled(message=message))
            done += 1
    return done


def reap_killed(home: Home, *, client: SyncPrefectClient) -> list[str]:
    """End the runs in `home` whose process is gone, as Crashed with the reason; returns their names.

    A killed process cannot say so itself, and its run would stay under way for ever, with its place among the runs of
    its deployment. What it trained goes on from its checkpoint when it is next asked for.
    """
    under_way = [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING]
    found = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way)))
    reaped = []
    for run in _all(client, found):
        if run.state is None or Path(str(run.parameters.get("home", ""))) != home.root:
            continue
        sign = run.labels.get(PROCESS)
        if sign is None:
            if datetime.now(UTC) - run.state.timestamp < UNSIGNED:
                continue
            message = f"No process showed a sign of life for it within {UNSIGNED}"
        elif lives(home, str(sign)):
            continue
        else:
            message = f"Its process ended without a word: killed, out of memory, or a power cut ({sign})"
        client.set_flow_run_state(run.id, Crashed(message=message), force=True)
        logging.getLogger(__name__).warning("run %s (%s): %s", run.name, run.id, message)
        reaped.append(run.name)
    sweep_signs(home)
    return reaped


def _all(client: SyncPrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
    found: list[FlowRun] = []
    while len(page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found))) == PAGE:
        found += page
    return [*found, *page]
