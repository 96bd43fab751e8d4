"""The `ratchet` command."""

import click


@click.group()
def main() -> None:
    """A recommender that only turns one way: up."""
