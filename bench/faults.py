"""Faults that the pipeline and its serving must survive, each at its full count and with its figure.

`python -m bench.faults --data FOLDER` prints a row a promise; `holds` is computed from `measured` and `bar`. A row that
could not be measured here holds nothing and fails nothing: its `measured` is null, and it says why. Small counts of the
same functions are tests. Kills are SIGKILL: they do not prove safety against power loss.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import poison
from bench.fault_bundles import measure_corrupt
from bench.fault_disks import may_mount, measure_full_disk
from bench.fault_forgery import measure_forgery
from bench.fault_homes import Workers
from bench.fault_inputs import measure_bad_values, measure_bomb, measure_drift, measure_empty
from bench.fault_kills import measure_kills
from bench.fault_loaders import measure_canaries
from bench.fault_orders import measure_duplicates, measure_future, measure_order, measure_skew
from bench.fault_privacy import measure_forgetting, measure_leak
from bench.fault_promotions import measure_promotions
from bench.fault_races import measure_races
from bench.fault_serving import measure_dependencies, measure_ports
from bench.fault_trainings import PRELOAD, measure_increment_kills, measure_release_kills
from bench.fault_unauthorised import measure_rollback, measure_unauthorised
from bench.rows import Row, at_most, skipped
from relations.errors import UsageError

Part = Callable[[Path], list[Row]]
INCREMENT_KILLS = 20
PROMOTION_KILLS = 50


def run(repetitions: int = 100, data: Path | None = None, parts: Sequence[str] = ()) -> list[Row]:
    """All rows, or those of `parts`. `repetitions`: kills, and rounds of a race; `data`: the folder of the real logs,
    which poisoned batches need. Raises UsageError for a part that there is not."""
    workers = Workers(also=["bench.faults", *PRELOAD])
    known: dict[str, Part] = {
        "kills": partial(measure_kills, kills=repetitions, workers=workers),
        "increment kills": partial(_increment_kills, kills=min(repetitions, INCREMENT_KILLS), workers=workers),
        "release kills": partial(_release_kills, kills=min(repetitions, INCREMENT_KILLS), workers=workers),
        "duplicates": partial(measure_duplicates, events=50_000),
        "order": partial(measure_order, permutations=10),
        "skew": measure_skew,
        "future": partial(measure_future, streams=20),
        "drift": measure_drift,
        "poison": partial(_poison, data=data),
        "bad values": measure_bad_values,
        "gzip bomb": partial(measure_bomb, workers=workers),
        "empty": measure_empty,
        "full disk": partial(_full_disk, workers=workers),
        "leak": partial(measure_leak, users=1_000, train=True),
        "forget": measure_forgetting,
        "corrupt model": partial(measure_corrupt, positions=1_000, requests=300),
        "canary": measure_canaries,
        "forgery": partial(measure_forgery, each=2_500),
        "ports": measure_ports,
        "dependencies": partial(measure_dependencies, requests=300),
        "races": partial(measure_races, rounds=repetitions),
        "promotions": partial(measure_promotions, kills=min(repetitions, PROMOTION_KILLS), workers=workers),
        "unauthorised": measure_unauthorised,
        "rollback": measure_rollback,
    }
    if unknown := sorted(set(parts) - set(known)):
        raise UsageError(f"{unknown[0]} is no part of `faults`; known: {', '.join(known)}")
    rows: list[Row] = []
    for name, part in known.items():
        if parts and name not in parts:
            continue
        with tempfile.TemporaryDirectory(prefix="ratchet-faults-", ignore_cleanup_errors=True) as folder:
            try:
                rows += part(Path(folder))
            except Exception:  # the other rows are minutes of work
                traceback.print_exc()
                rows.append(at_most(f"{name}: the measurement broke", 1, 0, unit="times"))
    return rows


def _poison(folder: Path, *, data: Path | None) -> list[Row]:
    """The two promises, on logs that no bound was tuned on; all rows are `ratchet bench poison`."""
    if data is None:
        return [skipped("poisoned batches of real logs", "name their folder with --data")]
    return poison.run(data)[:2]


def _increment_kills(folder: Path, *, kills: int, workers: Workers) -> list[Row]:
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        return measure_increment_kills(folder, kills=kills, workers=workers, api=str(PREFECT_API_URL.value()))


def _release_kills(folder: Path, *, kills: int, workers: Workers) -> list[Row]:
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        return measure_release_kills(folder, kills=kills, workers=workers, api=str(PREFECT_API_URL.value()))


def _full_disk(folder: Path, *, workers: Workers) -> list[Row]:
    why = may_mount(folder)
    return [skipped("full disk", why)] if why else measure_full_disk(folder, workers=workers)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100, help="kills, and rounds of a race (default: 100)")
    parser.add_argument("--part", action="append", default=[], help="one part, by name; may be repeated")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.repetitions < 1:
        parser.error(f"--repetitions {chosen.repetitions}: at least 1")
    began = time.monotonic()
    rows = run(chosen.repetitions, chosen.data, chosen.part)
    if chosen.json:
        print(json.dumps({"rows": rows, "repetitions": chosen.repetitions}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = {True: "holds", False: "FAILS"}.get(row["holds"], "skipped" if row["measured"] is None else "")
            figure = "" if row["measured"] is None else f"{row['measured']:,}"
            print(f"{row['name']:<88} {figure:>9} {row['unit']:<10} {row['bar'] or '':>7}  {verdict}")
        print(f"{time.monotonic() - began:.0f} s")
    return 1 if any(row["holds"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
