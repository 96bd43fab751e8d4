"""What a user controls: set and read back. The id is in the body, never in a path: paths get logged."""

from fastapi import FastAPI, Request, Response

from serving.choosing.exposures import encode
from serving.service import Service
from serving.web.messages import PreferencesAnswer, PreferencesQuestion, PreferencesRequest
from serving.web.openapi import documented
from serving.web.reading import body_of, parsed
from serving.web.times import format_time
from stores.preferences import Preferences

PATH = "/v1/users/preferences"


def add_preferences(app: FastAPI) -> None:
    """The routes. Of an app whose service is at `app.state.service`."""

    @app.put(
        PATH,
        **documented("Replace what a user controls", tag="users", request=PreferencesRequest, answer=PreferencesAnswer),
    )
    async def set_preferences(request: Request) -> Response:
        service: Service = app.state.service
        message = parsed(PreferencesRequest.model_validate_json, await body_of(request))
        stated = Preferences(
            message.personalised, frozenset(message.hidden_items), frozenset(message.hidden_categories)
        )
        kept = await service.user_state.set_preferences(service.desk.keys.user(message.user_id), stated)
        return _answer(kept)

    @app.post(
        f"{PATH}/read",
        **documented("What a user controls", tag="users", request=PreferencesQuestion, answer=PreferencesAnswer),
    )
    async def read_preferences(request: Request) -> Response:
        service: Service = app.state.service
        message = parsed(PreferencesQuestion.model_validate_json, await body_of(request))
        names = service.desk.keys.history(message.user_id)
        remembered = await service.user_state.read(names[0], formerly=names[1] if len(names) > 1 else None)
        return _answer(remembered.preferences)


def _answer(preferences: Preferences) -> Response:
    stated = {
        "personalised": preferences.personalised,
        "hidden_items": sorted(preferences.hidden_items),
        "hidden_categories": sorted(preferences.hidden_categories),
        "set_time": format_time(preferences.set_us) if preferences.set_us else None,
    }
    return Response(encode(stated), media_type="application/json")
