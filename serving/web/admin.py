"""What those who run the shop may do over HTTP: pull the kill switch."""

import asyncio

from fastapi import FastAPI, Request, Response

from relations.errors import GateRefused, UsageError
from serving.choosing.exposures import encode
from serving.service import Service
from serving.web.messages import KillAnswer, KillRequest
from serving.web.openapi import documented
from serving.web.problems import Refused
from serving.web.reading import body_of, parsed
from stores.home import Home
from stores.kills import kill_trial
from stores.settings import Settings

NOBODY = "this machine, without a key"
"""Who acts where no key is asked for."""


def add_admin(app: FastAPI, home: Home, settings: Settings) -> None:
    """The routes. Of an app whose service is at `app.state.service`."""

    @app.post(
        "/v1/admin/kill",
        **documented(
            "Take every challenger off all users, for good",
            tag="operation",
            request=KillRequest,
            answer=KillAnswer,
            refusals=(404, 409),
            description="The kill switch, as `ratchet trial kill`. Works without the ledger's database, and twice is "
            "once. The trial then waits for `ratchet trial stop`.",
        ),
    )
    async def kill(request: Request) -> Response:
        service: Service = app.state.service
        message = parsed(KillRequest.model_validate_json, await body_of(request))
        key = getattr(request.state, "key", None)
        actor, trial = key.name if key else NOBODY, message.trial or _open_trial(service)
        try:
            done = await asyncio.to_thread(
                kill_trial, home, settings, trial, actor=actor, reason=message.reason, now=service.now()
            )
        except UsageError as error:
            raise Refused(404, str(error)) from error
        except GateRefused as error:
            raise Refused(409, str(error)) from error
        service.kills.look()  # here it holds from this answer on
        told = {"trial": trial, "killed": True, "actor": actor, "recorded": done.recorded, "warning": done.warning}
        return Response(encode(told), media_type="application/json")


def _open_trial(service: Service) -> str:
    """The one that this server knows. Raises Refused where there is none."""
    state = service.watcher.current.state
    if state.trial is not None:
        return state.trial.id
    if state.bake is not None:
        raise Refused(
            409, f"trial {state.bake.trial}: is {state.bake.state}, its challenger serves all: `ratchet rollback`"
        )
    raise Refused(404, "no trial is open")
