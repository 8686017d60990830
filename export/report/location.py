"""Where the report about an export lies."""

from pathlib import Path

DEFAULT_REPOSITORY = Path("models")


def report_path(reports: Path, version: Path) -> Path:
    """The page about a version: NAME-VERSION.html, for each repository but the default one in a folder of its own.

    Without that folder an export into another repository would overwrite the page of the same version in the default
    one. It is named after the repository's path, relative to the current folder where that is possible.

    Args:
        version: the version's folder, <models>/<name>/<version>.

    Example:
        >>> report_path(Path("reports/export"), Path("/srv/models/cnn/3"))
        PosixPath('reports/export/srv-models/cnn-3.html')
    """
    repository, here = version.parent.parent.resolve(), Path.cwd()
    page = f"{version.parent.name}-{version.name}.html"
    if repository == DEFAULT_REPOSITORY.resolve():
        return reports / page
    known = repository.relative_to(here) if repository.is_relative_to(here) else repository
    folder = "-".join(part for part in known.parts if part != known.anchor)
    return reports / (folder or repository.name or "root") / page
