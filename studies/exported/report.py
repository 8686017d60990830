"""Writes the parts of docs/export.md that compare exported files with PyTorch, and say with what they are computed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from hangtag.export.gate.speed import COMPILED, EAGER, FILE, FP32
from studies import results
from studies.exported.instructions import KINDS, OTHER
from studies.exported.instructions import RESULTS as INSTRUCTIONS
from studies.exported.run import RESULTS
from studies.page import Part, made_from, table

Lines = Mapping[str, results.Line]


def part(path: Path = RESULTS) -> str:
    """Tables of times, of goals, and of the nodes of models that miss theirs. Raises click.ClickException, as read."""
    models = results.read(path)
    conditions = models.pop("conditions")
    blocks = [
        f"{made_from(path, conditions)}, each contender on one thread; the load average before was "
        f"{conditions['load_before']:.1f}. Milliseconds for a batch; in brackets, how many times faster the file is: "
        f"the median of {conditions['rounds']} rounds, in each of which the contenders of a row took turns. Times in "
        "different rows compare less well:",
        table(("model", "batch", "the file", f"its {FP32}", EAGER, COMPILED), _times(models), right=5),
        table(("model", "goal", "measured", "reached"), _goals(models)),
    ]
    for name, model in models.items():
        if model.get("nodes"):
            blocks += [f"Where the time of `{name}` goes, on one thread:", _nodes(model)]
    return "\n\n".join(blocks)


def _times(models: Lines) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        for size, times in model["median_ms"].items():
            cells = (
                f"{_ms(times[contender])} ({times[contender] / times[FILE]:.2f}x)" if contender in times else ""
                for contender in (FP32, EAGER, COMPILED)
            )
            yield f"`{name}` version {model['version']}", size, _ms(times[FILE]), *cells


def _goals(models: Lines) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        if "goal" in model:
            ratio = f"{model['ratio']:.2f}x" if "ratio" in model else ""
            reached = {True: "yes", False: "no", None: "not measured"}[model["reached"]]
            yield f"`{name}`", model["goal"], ratio, reached
        if "may_lose" in model:
            lost, allowed = 100 * model["accuracy_lost"], 100 * model["may_lose"]
            reached = "yes" if lost <= allowed + 1e-6 else "no"
            yield f"`{name}`", f"at most {allowed:.2g} points of accuracy lost", f"{lost:.2f}", reached


def _nodes(model: results.Line) -> str:
    rows = [
        (f"`{node['name']}`", node["operator"], f"{node['microseconds']:,.0f}", f"{node['share']:.1%}")
        for node in model["nodes"]
    ]
    return table(("node", "operator", "µs", "share"), rows, right=2)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def instructions_part(path: Path = INSTRUCTIONS) -> str:
    """A table of the shares of matrix instructions. Raises click.ClickException, as read."""
    lines = results.read(path)
    conditions = lines.pop("conditions")
    kinds = [kind for kind in (*KINDS, OTHER) if any(kind in line["shares"] for line in lines.values())]
    rows = []
    for name, line in lines.items():
        model, batch_size = name.split()
        rows.append((f"`{model}`", batch_size, *(f"{line['shares'].get(kind, 0):.0%}" for kind in kinds)))
    return f"{table(('model', 'batch', *kinds), rows, right=len(kinds) + 1)}\n\n{made_from(path, conditions)}."


PARTS = (Part("docs/export.md", part, "speed"), Part("docs/export.md", instructions_part, "instructions"))
