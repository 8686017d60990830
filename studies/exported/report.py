"""The results of ``make bench-export`` as tables, between two marks of docs/export.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hangtag.export.gate.speed import COMPILED, EAGER, FILE, FP32
from studies import marked

HERE = Path(__file__).parent
BEGIN = marked.begin("studies/exported/report.py")
Results = dict[str, Any]


def markdown(results: Results) -> str:
    """What each model takes, which goals are reached, and the nodes of those that miss theirs."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"Measured {results['date']} on {machine['cpus']} CPUs ({machine['processor']}; {versions}) by "
        f"`{results['command']}`, each contender on one thread. Median milliseconds for a batch; in brackets, how many "
        "times faster the file is:",
        "",
        *_times(results["models"]),
        *_goals(results["models"]),
    ]
    for name, model in results["models"].items():
        if model.get("nodes"):
            lines += _nodes(name, model)
    return "\n".join(lines)


def _times(models: Results) -> Iterator[str]:
    yield f"| model | batch | the file | its {FP32} | {EAGER} | {COMPILED} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, model in models.items():
        for size, times in model["median_ms"].items():
            cells = [f"`{name}` version {model['version']}", size, _ms(times[FILE])]
            for contender in (FP32, EAGER, COMPILED):
                found = contender in times
                cells.append(f"{_ms(times[contender])} ({times[contender] / times[FILE]:.2f}x)" if found else "")
            yield f"| {' | '.join(cells)} |"
    yield ""


def _goals(models: Results) -> Iterator[str]:
    yield "| model | goal | measured | reached |"
    yield "| --- | --- | ---: | --- |"
    for name, model in models.items():
        if "goal" in model:
            ratio = f"{model['ratio']:.2f}x" if "ratio" in model else ""
            reached = {True: "yes", False: "no", None: "not measured"}[model["reached"]]
            yield f"| `{name}` | {model['goal']} | {ratio} | {reached} |"
        if "may_lose" in model:
            lost, allowed = 100 * model["accuracy_lost"], 100 * model["may_lose"]
            reached = "yes" if lost <= allowed + 1e-6 else "no"
            yield f"| `{name}` | at most {allowed:.2g} points of accuracy lost | {lost:.2f} | {reached} |"
    yield ""


def _nodes(name: str, model: Results) -> Iterator[str]:
    yield f"Where the time of `{name}` goes, on one thread:"
    yield ""
    yield "| node | operator | µs | share |"
    yield "| --- | --- | ---: | ---: |"
    for node in model["nodes"]:
        yield f"| `{node['name']}` | {node['operator']} | {node['microseconds']:,.0f} | {node['share']:.1%} |"
    yield ""


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def written_into(page: str, results: Results) -> str:
    """The page with its figures replaced. Raises click.ClickException for one without the two marks."""
    return marked.replaced(page, BEGIN, markdown(results))


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=HERE / "results.json", show_default=True)
@click.option("--page", type=click.Path(exists=True, path_type=Path), default=Path("docs/export.md"), show_default=True)
def main(results: Path, page: Path) -> None:
    """Write the figures of a results file into docs/export.md; without one the page stays as it is."""
    if not results.exists():
        click.echo(f"{page} stays as it is: there is no {results}; 'make bench-export' writes it")
        return
    page.write_text(written_into(page.read_text(), json.loads(results.read_text())))
    click.echo(f"wrote {page}")


if __name__ == "__main__":
    main()
