"""`ratchet init`."""

from typing import Any

import click

from cli.console import Context, Result, command
from stores.home import Home
from stores.pseudonyms import Keys

SETTINGS_FILE = """\
# Settings of this home. Every key has a default; see README.md, "Settings".
# Environment variables override: RATCHET_SECTION__KEY, e.g. RATCHET_TRIAL__N_MAX=50000

# [sources.shop]
# columns = { user_id = "customer", item_id = "sku", event_time = "ts" }
# behaviours = { add_to_cart = "cart", order = "purchase" }

# [trial]
# window_hours = 24
# minimum_effect = 0.02
# n_max = 20000
"""


@command("init", short_help="Make a home.")
@click.option("--simulation", is_flag=True, help="A home for simulated time and traffic; may never serve real users.")
def init(context: Context, *, simulation: bool) -> Result:
    """Make a home: the folder that holds all state."""
    home = Home.create(context.root, simulation=simulation)
    Keys.load(home.keys)
    file = home.root / "ratchet.toml"
    if not file.exists():
        file.write_text(SETTINGS_FILE, encoding="utf-8")
    data: dict[str, Any] = {"home": str(home.root), "simulation": home.simulation, "settings": str(file)}
    lines = (f"home {home.root}", f"settings {file}", "Next: ratchet ingest YOUR.csv · ratchet train --mode full")
    return Result(data, lines)
