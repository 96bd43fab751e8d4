"""People's words inside Markdown that somebody else renders: shown as they are, never read as markup.

MLflow's pages render descriptions as GitHub's Markdown, in which links, mentions, images and even frames are allowed.
"""

import re
import unicodedata

_MARKUP = frozenset("&<>|`*_[]!#~\\@${}")
_LINK = re.compile(r"(?<=www)\.|:(?=[/0-9a-z])", re.IGNORECASE)
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(said: str, *, most: int) -> str:
    """One line of at most `most` characters, in which nothing is markup; "…" stands for what is left out.

    What Markdown or HTML could read is written as character references, which every reader shows as the character.
    Control characters and those that turn the direction of what follows are dropped.
    """
    kept = (each for each in " ".join(said.split()) if each not in _DIRECTIONS and unicodedata.category(each) != "Cc")
    line = "".join(kept)
    links = {found.start() for found in _LINK.finditer(line)}
    parts = [f"&#{ord(each)};" if each in _MARKUP or place in links else each for place, each in enumerate(line)]
    if sum(map(len, parts)) > most:
        room = most - 1
        for place, part in enumerate(parts):
            room -= len(part)
            if room < 0:
                return f"{''.join(parts[:place])}…"
    return "".join(parts)
