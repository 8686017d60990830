"""The model repository that the study's server has: the shipped models, the route under test, and routes of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

FAST, ACCURATE, SHADOW = "lstm", "cnn", "lstm2"
"""The models of the routes, and those that the cascade is compared with. The shadow is another small model."""
PLAIN, SHADOWED, SPLIT = "plain", "shadowed", "split"
"""Routes of the study: FAST alone; the same with SHADOW as its shadow; and FAST and SHADOW by SHARES."""
SHARES = {FAST: 90.0, SHADOW: 10.0}


@contextmanager
def repository(models: Path, route: str) -> Iterator[Path]:
    """A folder with links to what is measured, and with the study's own routes.

    Raises:
        click.ClickException: A model or the route is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in (FAST, ACCURATE, SHADOW, route):
            if not (models / each).is_dir():
                raise click.ClickException(f"{models} has no {each}, which this study measures.")
            (folder / each).symlink_to((models / each).resolve())
        shares = ", ".join(f"{member} = {share:g}" for member, share in SHARES.items())
        for each, text in {
            PLAIN: f"split = {{{FAST} = 100}}",
            SHADOWED: f'split = {{{FAST} = 100}}\nshadow = {{model = "{SHADOW}", share = 1}}',
            SPLIT: f"split = {{{shares}}}",
        }.items():
            (folder / each).mkdir()
            (folder / each / "route.toml").write_text(text)
        yield folder
