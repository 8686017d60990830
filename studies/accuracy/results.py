"""Finished runs -> the results files that docs/study.md is made from: what was asked, and what came of it."""

import json
from pathlib import Path

import click

from hangtag.training.runs.config import portable
from hangtag.training.runs.run import Run


@click.command()
@click.argument("runs", type=click.Path(exists=True, path_type=Path, file_okay=False), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs/study"), show_default=True)
def main(runs: tuple[Path, ...], out: Path) -> None:
    """Keep the config and the metrics of finished RUNS, one file each. Their weights stay where they are."""
    out.mkdir(parents=True, exist_ok=True)
    for run in map(Run, runs):
        run.require_finished()
        path = out / f"{run.folder.resolve().name}.json"
        result = {"config": portable(run.read_config()), "metrics": run.read_metrics()}
        path.write_text(json.dumps(result, indent=1) + "\n")
        click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
