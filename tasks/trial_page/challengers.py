"""Several challengers side by side, each against the same champion's users."""

from xml.etree.ElementTree import Element

from tasks.trial_page.effect import effect_picture
from tasks.trial_page.markup import node, soft, table
from tasks.trial_page.reading import Told, comparison, ends, figure, leading, matured, rows, text, texts
from tasks.trial_page.wording import UNKNOWN, interval, percent, score


def challengers_part(told: Told) -> list[Element] | None:
    """None for a trial of one challenger."""
    config, newest = told.config, told.compared[-1] if told.compared else {}
    if not config.others or not newest:
        return None
    gone, first = set(texts(newest, "out")), leading(newest)
    body, pictures = [], []
    for each in config.challengers:
        part = comparison(newest, each.name)
        verdict = "out: rejected by an earlier look" if each.name in gone and not part else text(part, "verdict")
        rails = rows(part, "guardrails")
        body.append(
            (
                f"{told.named(each.name)}{' ◆' if each.name == first else ''}", verdict or UNKNOWN,
                told.users(matured(part)), percent(figure(part, "lift")), interval(ends(part, "lift_interval")),
                score(figure(part, "z")), score(figure(part, "boundary")),
                f"{sum(1 for rail in rails if rail.get('holds'))} of {len(rails)}" if rails else UNKNOWN,
            )
        )  # fmt: skip
        points = told.points(each.name)
        if points:
            picture = effect_picture(told, points, name=f"small-{each.name}", title=told.named(each.name), keyed=False)
            pictures.append(picture)
    head = ("challenger", "verdict", "matured users", "lift", "interval", "z", "boundary", "guardrails hold")
    return [
        soft(
            "◆ leads, and the verdict above is about it. Each challenger is tested at a one-sided "
            f"α = {config.alpha_each:.3g}, so that any of {len(config.challengers)} that are no better is promoted "
            f"with a probability of at most {config.alpha:g}."
        ),
        table("Each challenger against the champion", head, body, texts=(1,)),
        node("div", *pictures, class_="two"),
    ]
