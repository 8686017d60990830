"""``hangtag models push`` and ``pull`` copy models to and from a repository in an object store."""

from pathlib import Path

import click

_folder = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
_url = click.argument("url")
_replace = click.option("--replace", is_flag=True, help="Overwrite versions whose content is different.")


@click.command()
@_folder
@_url
@_replace
def push(folder: Path, url: str, replace: bool) -> None:
    """Write FOLDER, a model repository or one of its models, to the store at a URL.

    Servers that poll the store see all changes of a push together. If a version in the store has different content,
    the push is refused.

    \b
    Examples:
      hangtag models push models s3://bucket/models
      hangtag models push models/cnn gs://bucket/models
    """
    from hangtag.serving.stores import transfer

    transfer.push(folder, url, replace=replace, report=_report)


@click.command()
@_url
@_folder
@_replace
def pull(url: str, folder: Path, replace: bool) -> None:
    """Write the models of a store into a local repository.

    If a local version has different content, the pull is refused.

    \b
    Example:
      hangtag models pull s3://bucket/models models
    """
    from hangtag.serving.stores import transfer

    transfer.pull(url, folder, replace=replace, report=_report)


def local_copy(url: str) -> Path:
    """Update the local copy of the store, and return the copy's folder. If the update fails, the reason is printed on
    standard error, or, if there is no earlier copy, raised as a StoreError."""
    from hangtag.serving.stores.mirror import Mirror
    from hangtag.serving.stores.store import Store

    mirror = Mirror(Store(url), None, _report)
    if trouble := mirror.update():
        click.echo(f"THIS IS AN EARLIER COPY, NOT THE STORE'S PRESENT CONTENT: {trouble}", err=True)
    return mirror.models


def _report(what: str, size: int) -> None:
    click.echo(f"{what}  {size / 1e6:,.1f} MB", err=True)
