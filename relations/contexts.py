"""What a JSON text says, as a regular expression that every engine has; their functions for JSON differ."""

import json
import re

import ibis

_SPACE = r"[ \t\r\n]*"
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_FILLER = r'[^"{}\[\]]*'
_DEPTH = 4


def says(text: ibis.Value, *, key: str, value: str) -> ibis.Value:
    """Whether the JSON object `text` says `value` of its own `key`: as a string, number, true, false or null.

    A number is compared as it is written: 1.50 does not say "1.5". Of a key that comes twice, either. False for a null
    text, for one that is no object, and for one with values that nest deeper than four levels. Characters beyond ASCII
    may be escaped, as `json.dumps` writes them, or not; characters that need no escape must have none.
    """
    return text.re_search(_pattern(key, value)).fill_null(False)


def _pattern(key: str, value: str) -> str:
    """No part of it can match in two ways, so that engines which backtrack take linear time too."""
    inside = _FILLER
    for _ in range(_DEPTH - 1):
        inside = rf"{_FILLER}(?:(?:{_STRING}|[\[{{]{inside}[\]}}]){_FILLER})*"
    anything = rf'(?:{_STRING}|[^ \t\r\n"{{}}\[\],:]+|[\[{{]{inside}[\]}}])'
    pair = f"{_STRING}{_SPACE}:{_SPACE}{anything}{_SPACE}"
    wanted = f"(?:{_written(key)}){_SPACE}:{_SPACE}(?:{_written(value)}{_bare(value)}){_SPACE}"
    return rf"^{_SPACE}\{{{_SPACE}(?:{pair},{_SPACE})*{wanted}(?:,{_SPACE}{pair})*\}}{_SPACE}\z"


def _written(text: str) -> str:
    """A JSON string, escaped to ASCII or not."""
    return "|".join(re.escape(form) for form in sorted({json.dumps(text), json.dumps(text, ensure_ascii=False)}))


def _bare(value: str) -> str:
    """The value without quotes, where JSON has such a one."""
    try:
        scalar = not isinstance(json.loads(value), str | list | dict)
    except ValueError:
        return ""
    return f"|{re.escape(value.strip())}" if scalar else ""
