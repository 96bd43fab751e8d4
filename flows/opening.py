"""What a flow opens first: its home and its settings. The only place, beside the command line and serving, that
builds settings."""

from pathlib import Path

from stores.home import Home
from stores.settings import Settings, find_settings, load_settings


def open_home(home: str, config: str | None) -> tuple[Home, Settings]:
    root = Path(home)
    return Home.open(root), load_settings(find_settings(root, None if config is None else Path(config)))
