"""The steps that people take on pages: each is one transition of the ledger, taken as the person of the session.

A step carries what its page showed (the evidence's digest, the champion's epoch), so that nobody decides on what they
did not see. What the ledger refuses is told on the same page.
"""

from collections.abc import Callable
from urllib.parse import quote

from fastapi import FastAPI, Request, Response

from serving.console.desk import Desk
from serving.console.forms import epoch_of, reason_of
from serving.console.outcomes import SERVING_SECONDS, name_of, serves_told, taken
from serving.console.pages.champions import champions_view
from serving.console.pages.trial import trial_view
from serving.console.refusals import Refused
from stores.kills import kill_trial
from stores.ledger_records import Waiting
from tasks.deciding import Decided, approve_trial, reject_trial, rollback_champion, watch_told
from tasks.killing import settle_kills


def add_decisions(app: FastAPI, desk: Desk) -> None:
    place = desk.place
    home, settings, ledger = place.home, place.settings, place.ledger

    def on_trial(request: Request, trial: str, act: Callable[[], str]) -> Response:
        def again(refused: Refused) -> Response:
            return desk.page(
                request,
                "trial.html",
                status=refused.status,
                problem=refused.problem,
                typed=request.state.form,
                **trial_view(place, trial),
            )

        return taken(desk, request, act, again=again, then=f"/trials/{quote(trial, safe='')}")

    @app.post("/trials/{trial}/approve")
    def approve(request: Request, trial: str) -> Response:
        def act() -> str:
            form = request.state.form
            reason, evidence = reason_of(form), _evidence_of(form)
            outcome = approve_trial(
                home,
                settings,
                trial,
                actor=name_of(request),
                reason=reason,
                now=place.now(),
                evidence=evidence,
                wait_seconds=SERVING_SECONDS,
            )
            return _approved(trial, outcome)

        return on_trial(request, trial, act)

    @app.post("/trials/{trial}/reject")
    def reject(request: Request, trial: str) -> Response:
        def act() -> str:
            reason = reason_of(request.state.form)
            reject_trial(home, settings, trial, actor=name_of(request), reason=reason, now=place.now())
            return f"{trial} is rejected; its challenger gets no more users, and the same bundle cannot come back."

        return on_trial(request, trial, act)

    @app.post("/trials/{trial}/stop")
    def stop(request: Request, trial: str) -> Response:
        def act() -> str:
            reason, now = reason_of(request.state.form), place.now()
            settle_kills(home, ledger, now=now)
            ledger.stop_trial(trial, actor=name_of(request), reason=reason, now=now)
            return f"{trial} is stopped without a verdict; its challenger gets no more users."

        return on_trial(request, trial, act)

    @app.post("/trials/{trial}/kill")
    def kill(request: Request, trial: str) -> Response:
        def act() -> str:
            reason = reason_of(request.state.form)
            killed = kill_trial(home, settings, trial, actor=name_of(request), reason=reason, now=place.now())
            told = f"{trial} is killed: no server shows its challenger any more. Stop it, to end it."
            return f"{told} {killed.warning}".strip()

        return on_trial(request, trial, act)

    @app.post("/trials/{trial}/code")
    def code(request: Request, trial: str) -> Response:
        form = request.state.form
        step = form.get("step", "")
        if step not in ("approve", "reject"):
            raise Refused(422, "A code is for one step: approve or reject.", "Choose one on the trial's page.")
        ledger.trial(trial)  # of a trial that there is
        return _shown_code(desk, request, step=step, subject=trial, evidence=_evidence_of(form, step=step))

    @app.post("/rollback/code")
    def rollback_code(request: Request) -> Response:
        return _shown_code(desk, request, step="rollback", subject="", evidence="")

    @app.post("/rollback")
    def rollback(request: Request) -> Response:
        def act() -> str:
            form = request.state.form
            reason, epoch = reason_of(form), epoch_of(form)
            decided = rollback_champion(
                home,
                settings,
                actor=name_of(request),
                reason=reason,
                now=place.now(),
                expected_epoch=epoch,
                wait_seconds=SERVING_SECONDS,
            )
            return f"Rolled back. {serves_told(decided)}"

        def again(refused: Refused) -> Response:
            shown = champions_view(place)
            form, problem = request.state.form, refused.problem
            return desk.page(request, "champions.html", status=refused.status, problem=problem, typed=form, **shown)

        return taken(desk, request, act, again=again, then="/champions")


def _shown_code(desk: Desk, request: Request, *, step: str, subject: str, evidence: str) -> Response:
    """Answered with the page itself: a code that was left in a cookie could be read again."""
    shown = desk.place.ledger.issue_code(
        name_of(request), step=step, subject=subject, evidence=evidence, now=desk.place.wall()
    )
    return desk.page(request, "code.html", code=shown, step=step, subject=subject, evidence=evidence)


def _evidence_of(form: dict[str, str], *, step: str = "approve") -> str:
    """The digest of the look that the person saw."""
    stated = form.get("evidence", "")
    if step == "approve" and not stated:
        raise Refused(422, "The form does not say which evidence you saw.", "Open the trial's page again.")
    return stated


def _approved(trial: str, outcome: Decided | Waiting) -> str:
    if isinstance(outcome, Waiting):
        given = len(outcome.approved_by)
        return f"Your approval of {trial} is recorded: {given} of {outcome.quorum}. Somebody else must approve it too."
    watched = (
        "" if outcome.trial is None or not outcome.trial.is_watched else f" {trial} is {watch_told(outcome.trial)}."
    )
    return f"Approved. {serves_told(outcome)}{watched}"
