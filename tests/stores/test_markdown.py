"""People's words in somebody else's Markdown."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.markdown import plain

REFERENCE = re.compile("&#[0-9]+;")
MARKUP = set("<>|`*_[]!~\\@${}")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("clicks rose by 2.5 % (p = 0.01); good", "clicks rose by 2.5 % (p = 0.01); good"),
        ("a | b\n| c", "a &#124; b &#124; c"),
        ("<script>x</script>", "&#60;script&#62;x&#60;/script&#62;"),
        ("[me](javascript:x)", "&#91;me&#93;(javascript&#58;x)"),
        ("https://evil.example www.evil.example", "https&#58;//evil.example www&#46;evil.example"),
        ("@ann #1 **x** &lt;", "&#64;ann &#35;1 &#42;&#42;x&#42;&#42; &#38;lt;"),
        ("a\x00b\x1b[31m\u202eevil", "ab&#91;31mevil"),
        ("Größe, 数, שלום", "Größe, 数, שלום"),
    ],
)
def test_words_are_shown_and_not_read(said: str, shown: str) -> None:
    assert plain(said, most=200) == shown


def test_what_is_too_long_is_cut_between_characters() -> None:
    assert plain("a|b", most=7) == "a…"  # 1 + 6 + 1 characters are needed
    assert plain("a|b", most=8) == "a&#124;b"
    assert plain("x" * 10, most=5) == "xxxx…"


@given(st.text(max_size=60), st.integers(min_value=1, max_value=80))
def test_nothing_is_markup_and_all_of_it_is_there(said: str, most: int) -> None:
    shown = plain(said, most=most)
    assert len(shown) <= most
    assert not MARKUP & set(shown)
    assert "&" not in REFERENCE.sub("", shown)
    assert not any(each in shown for each in "\n\r\t\u202e")
    if not shown.endswith("…") and said.isprintable():
        assert html.unescape(shown) == " ".join(said.split())
