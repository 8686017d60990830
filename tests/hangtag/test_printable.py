"""Texts that others chose do nothing to the terminal: neither in values that are printed, nor in errors."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.printable import escaped, printable

HOSTILE = "\x1b[31mred\nready"
SHOWN = "\\x1b[31mred\\nready"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: "tuple[Outer, ...]" = ()
    share: float | None = None


def test_a_printable_text_stays_as_it_is() -> None:
    assert escaped("Ankle boot, größer als 8 µm ✓") == "Ankle boot, größer als 8 µm ✓"


def test_every_text_within_a_value_is_escaped_and_all_else_kept() -> None:
    value = Outer(HOSTILE, (Outer("plain"), Outer(HOSTILE, share=0.5)))
    assert printable(value) == Outer(SHOWN, (Outer("plain"), Outer(SHOWN, share=0.5)))
    assert printable({HOSTILE: [HOSTILE, 3, None]}) == {SHOWN: [SHOWN, 3, None]}


@pytest.mark.parametrize("text", ["\x1b[2J", "two\nlines", "\x9b2J", "\x07"])
def test_an_error_is_one_line_without_control_characters(text: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["models", "list", "--models", str(tmp_path / f"no{text}folder")])
    assert ended.exit_code == 1
    (line,) = ended.stderr.split("\n")[:-1]
    assert line.isprintable()
    assert escaped(f"no{text}folder") in line
