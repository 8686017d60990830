"""The model repository that the study's server has: the shipped models, the route under test, and routes of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hangtag.serving.model_repository import numbered_versions

FAST, ACCURATE, SHADOW = "lstm", "cnn", "lstm-before"
"""The models that the cascade is compared with; and FAST's first version under a name of its own, which costs as much:
the split's other member, and the shadow."""
PLAIN, SHADOWED, SPLIT = "plain", "shadowed", "split"
"""Routes of the study: FAST alone; the same with SHADOW as its shadow; and FAST and SHADOW by SHARES."""
SHARES = {FAST: 90.0, SHADOW: 10.0}


@contextmanager
def repository(models: Path, route: str) -> Iterator[Path]:
    """A folder with links to what is measured, a copy of SHADOW, and the study's own routes.

    Raises:
        click.ClickException: A model or the route is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in (FAST, ACCURATE, route):
            if not (models / each).is_dir():
                raise click.ClickException(f"{models} has no {each}, which this study measures.")
            (folder / each).symlink_to((models / each).resolve())
        # A copy, because the server refuses a link that leads out of a model's folder.
        shutil.copytree(numbered_versions(models / FAST)[-1].path.parent, folder / SHADOW / "1")
        shares = ", ".join(f"{member} = {share:g}" for member, share in SHARES.items())
        for each, text in {
            PLAIN: f"split = {{{FAST} = 100}}",
            SHADOWED: f'split = {{{FAST} = 100}}\nshadow = {{model = "{SHADOW}", share = 1}}',
            SPLIT: f"split = {{{shares}}}",
        }.items():
            (folder / each).mkdir()
            (folder / each / "route.toml").write_text(text)
        yield folder
