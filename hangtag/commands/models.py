"""``hangtag models`` manages the models of a repository, of a running server, and of an object store."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from hangtag.commands import models_view as view
from hangtag.errors import UserError
from hangtag.export import verify
from hangtag.export.repository import inventory, promotion
from hangtag.export.repository.inventory import Entry
from hangtag.extras import needs
from hangtag.options import A_FOLDER, json_flag, models_option
from hangtag.printable import counted, escaped
from hangtag.serving.client import load_unload
from hangtag.serving.image_spec import FITS
from hangtag.serving.model_repository import is_route
from hangtag.tables import print_json, print_plain, table

_models = models_option("The model repository.", "folder")
_replace = click.option("--replace", is_flag=True, help="Overwrite versions whose content is different.")
_version = click.option(
    "--version", type=click.IntRange(min=1), help="The model's version.  [default: the version that serves]"
)


class _ListByDefault(click.Group):
    """Runs the subcommand ``list`` with all options if no subcommand is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names_none = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["list", *args] if names_none else args)


@click.group(cls=_ListByDefault)
def models() -> None:
    """List, show and verify the models of a repository, and choose which versions serve.

    'load' and 'unload' call a running server, and 'push' and 'pull' call an object store. Without a
    subcommand, models are listed: 'hangtag models --json' stands for 'hangtag models list --json'.
    """


models.add_command(load_unload.load)
models.add_command(load_unload.unload)


@models.command()
@click.argument("folder", type=A_FOLDER)
@click.argument("url")
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

    transfer.push(folder, url, replace=replace, report=_report_copy)


@models.command()
@click.argument("url")
@click.argument("folder", type=A_FOLDER)
@_replace
def pull(url: str, folder: Path, replace: bool) -> None:
    """Write the models of a store into a local repository.

    If a local version has different content, the pull is refused.

    \b
    Example:
      hangtag models pull s3://bucket/models models
    """
    from hangtag.serving.stores import transfer

    transfer.pull(url, folder, replace=replace, report=_report_copy)


def _report_copy(what: str, size: int) -> None:
    click.echo(f"{what}  {size / 1e6:,.1f} MB", err=True)


@models.command("list")
@models_option("The model repository, or its URL in an object store.", "folder", store=True)
@json_flag
def list_models(folder: Path | str, as_json: bool) -> None:
    """List every version of every model: whether it serves, how accurate it is, and where it came from.

    The list of models is followed by the routes, with the models that each route calls. For an object store, the
    command updates and lists the local copy that 'hangtag serve' uses, and says if the copy is older than the store.
    """
    if isinstance(folder, str):
        from hangtag.serving.stores.mirror import Mirror
        from hangtag.serving.stores.store import Store

        mirror = Mirror(Store(folder), None, _report_copy)
        if trouble := mirror.update():
            click.echo(f"THIS IS AN EARLIER COPY, NOT THE STORE'S PRESENT CONTENT: {trouble}", err=True)
        folder = mirror.models
    entries = [view.summary(entry) for entry in inventory.versions(folder)]
    routes = [view.route_summary(folder, name) for name in inventory.routes(folder)]
    problems = list(inventory.without_versions(folder))
    if as_json:
        print_json([*entries, *routes])
    elif entries:
        print_plain(view.listing(entries))
        for entry in entries:
            if why := entry.get("unbatched_because"):
                click.echo(escaped(f"{entry['model']} version {entry['version']} is not batched: {why}"))
        if routes:
            print_plain("")
            print_plain(view.route_listing(routes))
    elif not problems:
        print_plain(f"{folder} has no models. 'hangtag export' publishes a model.")
    for problem in problems:
        click.echo(escaped(problem), err=True)


@models.command()
@click.argument("name")
@_version
@_models
@json_flag
def show(name: str, version: int | None, folder: Path, as_json: bool) -> None:
    """Show a model: its signature, labels, size, operators, provenance, and the export gate's figures.

    For a route, show its models, its rule, and how the rule was chosen.

    \b
    Examples:
      hangtag models show cnn
      hangtag models show fast-and-accurate
      hangtag models show cnn --version 1 --json
    """
    entry = None
    if version is None and is_route(folder, name):
        shown = view.route_details(folder, name)
    else:
        entry = inventory.find(folder, name, version)
        if entry.signature is None:
            raise UserError(entry.trouble)
        shown = view.summary(entry) | view.details(entry, inventory.operators(entry))
    if as_json:
        print_json(shown)
    else:
        print_plain(view.description(shown, entry))


@models.command()
@click.argument("name")
@click.argument("version", metavar="VERSION|latest")
@_models
def promote(name: str, version: str, folder: Path) -> None:
    """Serve a VERSION of a model until another version is promoted.

    A newer version that is published in the meantime is not served, unless you promote it or give 'hangtag serve' a
    larger --num-versions. 'latest' removes the choice, so that the latest version is served. The choice is stored in
    the file promoted.toml in the model's folder. The command also explains how soon a server applies the choice.

    \b
    Examples:
      hangtag models promote cnn 1
      hangtag models promote cnn latest
    """
    if version != "latest" and not (version.isdecimal() and int(version) > 0):
        raise click.UsageError(
            f"VERSION {version}: give a version's number, or latest. 'hangtag models list' shows the versions."
        )
    _report(name, *promotion.promote(folder, name, None if version == "latest" else int(version)))


@models.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1), required=False)
@_models
def rollback(name: str, version: int | None, folder: Path) -> None:
    """Return to the version that served before, or to an earlier VERSION.

    Without VERSION, the command returns to the version that was promoted before, or, if there is none, to the next
    lower number.

    \b
    Examples:
      hangtag models rollback cnn
      hangtag models rollback cnn 1
    """
    _report(name, *promotion.roll_back(folder, name, version))


def _report(name: str, before: int | None, now: int) -> None:
    instead = f" instead of version {before}" if before else ""
    is_chosen = "was already chosen" if before == now else f"is chosen{instead}"
    click.echo(f"{name} version {now} {is_chosen}")
    click.echo(view.followers(name), err=True)


@models.command()
@click.argument("name")
@click.option(
    "--fit",
    type=click.Choice(FITS),
    required=True,
    help="stretch changes the proportions; crop cuts the longer edge; pad extends the shorter edge; garment converts "
    "a photo to the style of Fashion-MNIST.",
)
@click.option("--even-if-different", is_flag=True, help="Publish even if the served version records another --fit.")
@_models
def fit(name: str, fit: str, even_if_different: bool, folder: Path) -> None:
    """Record in a classifier's file how its training pictures were resized.

    The version that serves is published again as the next version, with the same graph and weights. If a classifier's
    file does not record how pictures were resized, the classifier accepts only pictures of its input size. If you
    change the --fit of an imported file, the results that were measured with the old --fit are removed.

    \b
    Example:
      hangtag models fit digits --fit pad
    """
    with needs("export", "'hangtag models fit'"):
        from hangtag.export.fit import record
    published = record(folder, name, fit, even_if_different=even_if_different)
    click.echo(f"published {published}")
    if note := promotion.note(published):
        click.echo(note, err=True)


@models.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_version
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="The folder with Fashion-MNIST's IDX files, or, if you moved your own pictures after 'hangtag train' or "
    "'hangtag import', their new folder.",
)
@_models
@json_flag
def verify_models(
    names: Sequence[str], version: int | None, data_dir: Path | None, folder: Path, as_json: bool
) -> None:
    """Recompute the figures that are recorded in the files of the named models. Without names, all models are verified.

    The exit code is 1 if a recomputed figure differs, or if the pictures for a figure are not at --data-dir. Figures
    that cannot be recomputed are listed with the reason. Run the command on the machine that serves, because the
    recorded figures may come from another processor.
    """
    if version is not None and len(names) != 1:
        raise click.UsageError(f"--version {version} applies to a single model. Name exactly one model.")
    entries = [inventory.find(folder, name, version) for name in names] if names else inventory.serving(folder)
    documents, failed, unchecked = [], False, 0
    for entry in entries:
        findings = verify.verify(entry, data_dir)
        failed = failed or any(finding.holds is False or finding.lacks_pictures for finding in findings)
        unchecked += sum(finding.holds is None for finding in findings)
        checks = [{"check": each.check, "holds": each.holds, "said": each.summary} for each in findings]
        documents.append({"model": entry.name, "version": entry.version, "findings": checks})
        if not as_json:
            print_plain(_findings(entry, findings))
    if as_json:
        print_json(documents)
    elif unchecked:
        how = "" if data_dir else " If the pictures are in another folder, give --data-dir PICTURES."
        click.echo(f"not checked: {counted(unchecked, 'figure', 'figures')}, for the reasons above.{how}")
    if failed:
        raise SystemExit(1)


def _findings(entry: Entry, findings: Sequence[verify.Finding]) -> Table:
    """Make a table of one model's verification. Checks with the same result for the same reason share a row."""
    verdicts = {True: Text("holds", "green"), False: Text("DOES NOT HOLD", "red"), None: Text("not checked")}
    rows = [
        (verdicts[holds], ", ".join(finding.check for finding in same), why)
        for (holds, why), same in groupby(findings, lambda finding: (finding.holds, finding.summary))
    ]
    made = table(("", "", ""), rows, title=f"{entry.name} version {entry.version}")
    made.show_header = False
    return made
