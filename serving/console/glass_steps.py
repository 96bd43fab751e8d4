"""Breaking the glass on pages: one approver asks, another confirms, and an approver ends it before its time.

By the same functions as `ratchet break-glass`. Asking and ending carry the epoch of the champion that the page showed;
a confirmation is of one request, which names its champion itself.
"""

from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from relations.errors import UsageError
from serving.console.desk import Desk
from serving.console.forms import epoch_of, hours_of, reason_of, version_of
from serving.console.outcomes import SERVING_SECONDS, name_of, serves_told, taken
from serving.console.pages.glass import asked, glass_view
from serving.console.place import Place
from serving.console.refusals import Refused
from stores.break_glass_records import BreakGlassRecord
from stores.bundle import is_complete
from tasks.deciding import ask_break_glass, confirm_break_glass, end_break_glass

PAGE = "/break-glass"


def add_break_glass(app: FastAPI, desk: Desk) -> None:
    place = desk.place
    home, settings, ledger = place.home, place.settings, place.ledger

    def on_page(request: Request, act: Callable[[], str]) -> Response:
        def again(refused: Refused) -> Response:
            form, problem = request.state.form, refused.problem
            shown = glass_view(place)
            return desk.page(request, "break_glass.html", status=refused.status, problem=problem, typed=form, **shown)

        return taken(desk, request, act, again=again, then=PAGE)

    @app.get(PAGE)
    def break_glass(request: Request) -> Response:
        return desk.page(request, "break_glass.html", **glass_view(place))

    @app.post(PAGE)
    def ask(request: Request) -> Response:
        def act() -> str:
            form = request.state.form
            reason, version, hours, epoch = reason_of(form), version_of(form), hours_of(form), epoch_of(form)
            _check_there(place, version)
            made = ask_break_glass(
                home,
                settings,
                version,
                hours=hours,
                actor=name_of(request),
                reason=reason,
                now=place.now(),
                expected_epoch=epoch,
            )
            whom = "; ".join(each.whom for each in asked(place, (made,), now=place.now()))
            head = f"Break-glass {made.number} is asked for: v{version} for {hours:g} hours. Nothing has changed yet."
            return f"{head} It waits until {made.expires:%H:%M} UTC for {whom}."

        return on_page(request, act)

    @app.post("/break-glass/{number}/confirm")
    def confirm(request: Request, number: str) -> Response:
        def act() -> str:
            reason, record = reason_of(request.state.form), _record(place, number)
            _check_there(place, record.version)
            decided = confirm_break_glass(
                home,
                settings,
                record.number,
                actor=name_of(request),
                reason=reason,
                now=place.now(),
                wait_seconds=SERVING_SECONDS,
            )
            return f"Confirmed, without evidence, until its hours are over. {serves_told(decided)}"

        return on_page(request, act)

    @app.post("/break-glass/{number}/end")
    def end(request: Request, number: str) -> Response:
        def act() -> str:
            form = request.state.form
            reason, epoch, record = reason_of(form), epoch_of(form), _record(place, number)
            decided = end_break_glass(
                home,
                settings,
                record.number,
                actor=name_of(request),
                reason=reason,
                now=place.now(),
                expected_epoch=epoch,
                wait_seconds=SERVING_SECONDS,
            )
            if decided is not None:
                return f"Break-glass {record.number} is ended. {serves_told(decided)}"
            over = ledger.break_glass(record.number)
            return f"Break-glass {over.number} is over, ended by {over.ended_by}; nothing else has changed."

        return on_page(request, act)


def _record(place: Place, number: str) -> BreakGlassRecord:
    if number.isascii() and number.isdigit() and len(number) < 10:
        try:
            return place.ledger.break_glass(int(number))
        except UsageError:
            pass
    raise Refused(404, "No request has this number.", "Choose one on this page.")


def _check_there(place: Place, version: int) -> None:
    """Raises Refused for what has nothing to serve; whether it is sound, the step itself verifies."""
    try:
        digest = place.ledger.version(version).digest
    except UsageError:
        raise Refused(422, f"v{version} is not in the ledger.", "Choose one of the list.", "No such version") from None
    if not is_complete(place.home.releases, digest):
        why = f"The release of v{version} is not whole in this home, and nothing could load it."
        raise Refused(409, why, "Restore its folder under releases, or choose another version.")
