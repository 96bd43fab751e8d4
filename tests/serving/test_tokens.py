import random
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.choosing.bots import RateRule
from serving.choosing.tokens import DAY_US, Tokens

TOKENS = Tokens(b"k" * 32, days=30)
SHOWN = 1_767_225_600_000_000
FACTS = {"exposure_id": "ab12:3", "shown_us": SHOWN, "digest": "d" * 64, "user": "p1_u", "item_id": "ü.🛒"}


def make(**other: object) -> str:
    return TOKENS.make(**{**FACTS, **other})  # type: ignore[arg-type]


def test_a_token_proves_its_exposure() -> None:
    assert TOKENS.exposure_id(make(), users=("p1_u",), item_id="ü.🛒", now_us=SHOWN + 5) == "ab12:3"


@pytest.mark.parametrize(("user", "item"), [("p1_v", "ü.🛒"), ("p1_u", "other"), ("p1_uü", ".🛒"), ("", "p1_uü.🛒")])
def test_a_token_fits_its_user_and_item_only(user: str, item: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        TOKENS.exposure_id(make(), users=(user,), item_id=item, now_us=SHOWN)


def test_a_token_of_a_rotated_key_fits_the_user_by_the_former_pseudonym() -> None:
    assert TOKENS.exposure_id(make(), users=("p2_new", "p1_u"), item_id="ü.🛒", now_us=SHOWN) == "ab12:3"
    with pytest.raises(ValueError, match="does not fit"):
        TOKENS.exposure_id(make(), users=("p2_new", "p1_v"), item_id="ü.🛒", now_us=SHOWN)
    with pytest.raises(ValueError, match="older than"):
        TOKENS.exposure_id(make(), users=("p2_new", "p1_u"), item_id="ü.🛒", now_us=SHOWN + 31 * DAY_US)


def test_a_token_expires() -> None:
    assert TOKENS.exposure_id(make(), users=("p1_u",), item_id="ü.🛒", now_us=SHOWN + 30 * DAY_US)
    with pytest.raises(ValueError, match="older than 30 days"):
        TOKENS.exposure_id(make(), users=("p1_u",), item_id="ü.🛒", now_us=SHOWN + 30 * DAY_US + 1)


def test_ten_thousand_forgeries_and_none_accepted() -> None:
    rng, sound = random.Random(3), make()
    others = [make(exposure_id="ab12:4"), make(shown_us=SHOWN + 1), make(digest="e" * 64)]
    accepted, slowest = 0, 0.0
    for number in range(10_000):
        kind = number % 4
        if kind == 0:
            at = rng.randrange(len(sound))
            forged = sound[:at] + chr(rng.choice([45, 46, 48, 65, 97, 0x1F6D2])) + sound[at + 1 :]
        elif kind == 1:
            forged = sound[: rng.randrange(len(sound))]
        elif kind == 2:  # the head of one token on the MAC of another
            forged = rng.choice(others).rpartition(".")[0] + "." + sound.rpartition(".")[2]
        else:
            forged = "".join(map(chr, (rng.randrange(32, 0xD7FF) for _ in range(rng.randrange(120)))))
        if forged == sound:
            continue
        started = time.perf_counter()
        try:
            TOKENS.exposure_id(forged, users=("p1_u",), item_id="ü.🛒", now_us=SHOWN)
            accepted += 1
        except ValueError:
            pass
        slowest = max(slowest, time.perf_counter() - started)
    assert accepted == 0
    assert slowest < 0.25  # it is some microseconds; a busy machine may interrupt one


def test_another_key_makes_other_tokens() -> None:
    foreign = Tokens(b"x" * 32, days=30).make(**FACTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not fit"):
        TOKENS.exposure_id(foreign, users=("p1_u",), item_id="ü.🛒", now_us=SHOWN)


@given(first=st.tuples(st.text(), st.text()), second=st.tuples(st.text(), st.text()))
def test_no_two_pairs_of_user_and_item_share_a_token(first: tuple[str, str], second: tuple[str, str]) -> None:
    assume(first != second)
    assert make(user=first[0], item_id=first[1]) != make(user=second[0], item_id=second[1])


def test_the_rate_rule_is_about_sixty_seconds_of_request_time() -> None:
    rule, second = RateRule(), 1_000_000
    # 31 requests at 2 s intervals span 60 s: the first is outside the window when the last comes.
    assert not any(rule.broken_by("slow", now_us=n * 2 * second) for n in range(100))
    assert [rule.broken_by("fast", now_us=n * 1_999_999) for n in range(32)] == [False] * 30 + [True, True]
    assert not rule.broken_by("fast", now_us=500 * second)
    assert [rule.broken_by("burst", now_us=7) for _ in range(31)].count(True) == 1


def test_the_rate_rule_forgets_the_users_seen_longest_ago() -> None:
    rule = RateRule(users=2)
    for _ in range(30):
        rule.broken_by("a", now_us=0)
    rule.broken_by("b", now_us=0)
    assert rule.broken_by("a", now_us=0)
    rule.broken_by("c", now_us=0)
    rule.broken_by("d", now_us=0)
    assert not rule.broken_by("a", now_us=0)
