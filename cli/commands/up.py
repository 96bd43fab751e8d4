"""`ratchet up`: the whole of an embedded Ratchet on one machine, until Ctrl-C."""

import signal
import time
from contextlib import ExitStack
from types import FrameType

import click

from cli import processes
from cli.console import Context, Result, command

PORTS = {"prefect": 4200, "mlflow": 5000, "serving": 8890, "console": 8891}


@command("up", short_help="Start everything on this machine.")
@click.option("--no-schedules", is_flag=True, help="The servers only; no flow starts by itself.")
def up(context: Context, *, no_schedules: bool) -> Result:
    """Start Prefect, MLflow, serving, the console and the scheduled flows; print their addresses; Ctrl-C stops all.

    Ports 4200, 5000, 8890 and 8891 on loopback; where one is taken, a free one.
    """
    home, settings = context.home, context.settings
    asked_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    addresses: dict[str, str] = {}
    with ExitStack() as running:
        started = []
        for server in (
            processes.start_prefect(home, port=PORTS["prefect"]),
            processes.start_mlflow(home, uri=settings.tracking.uri or home.tracking_uri, port=PORTS["mlflow"]),
            processes.start_serving(home, config=context.config_argument, port=PORTS["serving"]),
            processes.start_console(home, config=context.config_argument, port=PORTS["console"]),
        ):
            running.callback(server.stop)
            started.append(server)
        context.say("starting Prefect, MLflow, serving and the console (a minute on the first start) …")
        for server in started:
            server.wait(seconds=240, give_up=lambda: asked_to_stop)
            addresses[server.name] = str(server.address)
            if not asked_to_stop:
                context.say(f"{server.name:9} {server.address}")
        if not no_schedules and not asked_to_stop:
            api_url = f"{addresses['prefect']}/api"
            schedules = processes.start_schedules(home, config=context.config_argument, api_url=api_url)
            running.callback(schedules.stop)
            started.append(schedules)
            context.say("schedules ingest, learn, full-retrain, trial, maintenance")
        context.say("Ctrl-C stops all of it.")
        while not asked_to_stop:
            for server in started:
                server.check()
            time.sleep(0.3)
        context.say("stopping …")
    return Result({"addresses": addresses, "stopped": True})
