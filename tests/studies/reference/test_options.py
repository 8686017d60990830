"""The tables of options in docs/operations.md."""

import click
import pytest

from studies.reference import options


def test_commands_of_a_group_have_tables_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the environment variables that the tables name work."""
    values = []

    @click.group()
    def models() -> None: ...

    @models.command()
    @click.option("--as-json", is_flag=True, help="For scripts, one <name> a line.")
    def list_all(as_json: bool) -> None:
        """List the models."""
        values.append(as_json)

    (part,) = options.described("hangtag models", "Models.", models)
    assert part.startswith("### hangtag models list-all\n\nList the models.\n")
    assert part.endswith(
        "| `--as-json` | `HANGTAG_MODELS_LIST_ALL_AS_JSON` | off | For scripts, one &lt;name> a line. |"
    )
    monkeypatch.setenv("HANGTAG_MODELS_LIST_ALL_AS_JSON", "1")
    models.main(["list-all"], auto_envvar_prefix="HANGTAG_MODELS", standalone_mode=False)
    assert values == [True]
