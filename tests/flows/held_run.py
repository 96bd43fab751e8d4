"""A run that does nothing, for as long as nobody kills it: `python held_run.py HOME`."""

import sys
import time

from prefect import flow

from flows.runs import settle_in


@flow(name="held", on_running=[settle_in])
def held(home: str) -> None:
    sys.stdout.write("held\n")
    sys.stdout.flush()
    time.sleep(600)


held(sys.argv[1])
