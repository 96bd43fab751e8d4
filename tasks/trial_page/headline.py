"""What stands above the fold: the verdict, the sentence that decided, and who waits for what."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from gate.states import OPEN_STATES, TrialState
from stores.ledger_records import TrialRecord
from tasks.correcting import corrected_effect
from tasks.trial_page.markup import node, soft
from tasks.trial_page.reading import (
    COMPARE,
    Evidence,
    Told,
    comparison,
    ends,
    figure,
    leading,
    mapping,
    matured,
    rows,
    stage_of,
    text,
    texts,
)
from tasks.trial_page.wording import SIGNS, TONES, UNKNOWN, chance, count, interval, moment, percent, share


def title(told: Told) -> str:
    config = told.config
    if config.is_aa:
        return f"{config.trial_id}: v{config.champion_version} against itself (A/A)"
    challengers = ", ".join(f"v{each.version}" for each in config.challengers)
    return f"{config.trial_id}: {challengers} against v{config.champion_version}"


def headline(told: Told) -> list[Element]:
    sentence, commands = waiting(told)
    return [
        node("h1", title(told)),
        where(told),
        verdict(told),
        node("p", node("strong", "Waits for: "), sentence),
        node("pre", "\n".join(commands), tabindex=0),
    ]


def where(told: Told) -> Element:
    """Surface, stage, look, state, and up to when the data reach."""
    newest = told.newest
    seen = text(mapping(newest, "sums"), "watermark") or text(newest, "watermark")
    found = [
        f"surface {told.config.surface}",
        f"stage {text(newest, 'planned') or stage_of(newest)}",
        f"look {text(newest, 'look') or UNKNOWN}",
        f"data up to {moment(seen)}" if seen else "",
        f"state {told.record.state}",
    ]
    return soft(" · ".join(filter(None, found)))


def verdict(told: Told) -> Element:
    """The newest look's word, why, the lift, and the few figures that matter."""
    newest = told.newest
    said = text(newest, "verdict") or text(newest, "decision") or "no look yet"
    reasons = texts(newest, "reasons")
    tone = "good" if told.config.is_aa and said == "INCONCLUSIVE" else TONES.get(said, "plain")
    return node(
        "section",
        node("p", f"{SIGNS.get(said, '·')} {said}", class_="word"),
        node("p", reasons[0], class_="because") if reasons else None,
        _lift(told),
        _corrected(told),
        node("ul", *(node("li", reason) for reason in reasons[1:])) if reasons[1:] else None,
        _facts(told),
        class_=f"verdict {tone}",
        aria_label="Verdict",
    )


def waiting(told: Told) -> tuple[str, list[str]]:
    """Who or what has to act now, in a sentence, and the commands that person may type."""
    deadline = f"{told.config.deadline:%Y-%m-%d %H:%M} UTC"
    return waits_for(told.record, told.newest, until=deadline, n_max=told.config.n_max)


def outlook_part(told: Told) -> list[Element] | None:
    """None once a promotion was decided on: what may have withdrawn it no longer does."""
    newest = told.newest
    sentences = texts(newest, "outlook") if told.record.is_open or text(newest, "verdict") != "PROMOTE" else []
    return [node("ul", *(node("li", sentence) for sentence in sentences))] if sentences else None


def waits_for(record: TrialRecord, evidence: Evidence, *, until: str, n_max: int) -> tuple[str, list[str]]:
    """See `waiting`."""
    trial, state = record.id, record.state
    who = f" other than {record.submitter}, who submitted it" if record.submitter else ""
    if record.killed is not None and state in OPEN_STATES:
        return f"somebody to end it: it was killed ({record.killed.reason}).", [
            f'ratchet trial stop {trial} --as NAME --reason "…"'
        ]
    if state == TrialState.AWAIT_APPROVAL:
        people = "a person" if record.quorum == 1 else f"{record.quorum} people"
        given = f"; {len(record.approvals)} approved so far" if record.approvals else ""
        return f"{people}{who}{given}. Without an answer it expires.", [
            f'ratchet approve {trial} --as NAME --reason "…"',
            f'ratchet reject {trial} --as NAME --reason "…"',
        ]
    if state in OPEN_STATES:
        return _open(record, evidence, until=until, n_max=n_max), [f"ratchet trial status {trial}"]
    if state == TrialState.PROMOTING:
        return "serving, which has to be seen to serve the promoted bundle.", [f"ratchet trial status {trial}"]
    if state == TrialState.BAKING:
        return "nobody, unless an alarm rolls it back: the new champion is being watched.", [
            'ratchet rollback --as NAME --reason "…"'
        ]
    said = {
        TrialState.PROMOTED: "nobody: the challenger is champion.",
        TrialState.REJECTED: "nobody: users get the champion, and the same bundle cannot come back without new data.",
        TrialState.INCONCLUSIVE: "nobody: it ended without an answer, and the champion stays.",
        TrialState.ROLLED_BACK: "nobody: the former champion is back.",
        TrialState.STALE: "a new trial: the champion changed meanwhile, and evidence is never used twice.",
        TrialState.EXPIRED: "a new trial: nobody answered in time.",
        TrialState.ABORTED: "nobody: it was stopped.",
    }
    decided = f" By {record.decided_by}: {record.reason}" if record.decided_by and record.reason else ""
    return said.get(TrialState(state), "the next look.") + decided, [f"ratchet trial status {trial}"]


def _open(record: TrialRecord, evidence: Evidence, *, until: str, n_max: int) -> str:
    if text(evidence, "verdict") == "HOLD":
        return "data. Nothing is promoted until what is named above is mended; later looks go on by themselves."
    if stage_of(evidence) != COMPARE or record.state != TrialState.COMPARE:
        return "its stage to be over; the next one begins by itself. Nobody has to act."
    return f"more users: at most until {count(n_max)} have matured or {until}. Nobody has to act."


def _lift(told: Told) -> Element | None:
    part = comparison(told.newest, leading(told.newest))
    lift = figure(part, "lift")
    if lift is None or (matured(part) or 0) < told.k:
        return None
    name, tested = told.named(leading(told.newest)), figure(part, "boundary") is not None
    span, always = ends(part, "lift_interval"), ends(part, "lift_sequence")
    kind = "interval at this look's boundary" if tested else "always-valid interval, as this look did not test"
    if text(told.newest, "verdict") == "REJECT" and always is not None and always[1] < 0:
        span, kind = always, "always-valid interval, as harm is judged by"
    what = f"lift of {told.config.primary.name} by {name} "
    return node(
        "p",
        what,
        node("strong", f"{percent(lift)} {interval(span)}"),
        node("span", f" ({kind})", class_="soft"),
        class_="lift",
    )


def _corrected(told: Told) -> Element | None:
    name = leading(told.newest)
    if (matured(comparison(told.newest, name)) or 0) < told.k:
        return None
    found = corrected_effect(told.record, name)
    if found is None or found.lift is None or found.lift_interval is None:
        return None
    span = (found.lift_interval.lower, found.lift_interval.upper)
    return node(
        "p",
        f"corrected for stopping at look {found.look}: ",
        node("strong", f"{percent(found.lift)} {interval(span)}"),
        f", p = {chance(found.p_value)}",
        node("span", " (median-unbiased; one-sided p of the whole test)", class_="soft"),
        class_="lift",
    )


def _facts(told: Told) -> Element | None:
    """The few figures that a tired person asks for next."""
    newest = told.newest
    part = comparison(newest, leading(newest))
    if not part:
        return _served_facts(told)
    users = matured(part)
    rails = rows(part, "guardrails")
    protected = [row for row in rows(part, "slices") if row.get("protected")]
    found = [("matured users", f"{told.users(users)} of {count(told.config.n_max)}")]
    for name, tested in (("guardrails hold", rails), ("protected slices hold", protected)):
        if tested:
            found.append((name, f"{sum(1 for row in tested if row.get('holds'))} of {len(tested)}"))
    ratios = [p for name in ("srm_p", "srm_p_matured", "bots_p") if (p := figure(part, name)) is not None]
    if ratios:
        broken = min(ratios) < told.config.srm_alpha
        found.append(("split of users", "✗ broken" if broken else "✓ as declared"))
    found.append(("α spent", share(figure(part, "spent"), digits=2)))
    return _list(found)


def _served_facts(told: Told) -> Element | None:
    served = mapping(told.newest, "served")
    found = [
        (
            f"{told.named(arm)} failed",
            f"{count(figure(mapping(served, arm), 'failures'))} of {count(figure(mapping(served, arm), 'requests'))}",
        )
        for arm in served
    ]
    return _list(found) if found else None


def _list(found: Sequence[tuple[str, str]]) -> Element:
    return node("dl", *(node("div", node("dt", name), node("dd", said)) for name, said in found), class_="facts")
