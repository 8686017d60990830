"""What a user imports from hangtag itself."""

import subprocess
import sys

import pytest

import hangtag
from hangtag.serving.client.client import Client
from hangtag.serving.connection.errors import ClientError


def test_importing_hangtag_loads_no_other_package() -> None:
    code = (
        "import sys; before = set(sys.modules); import hangtag; print(dir(hangtag))\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names\n"
        "print(sorted(loaded), sorted(name for name in sys.modules if name.startswith('hangtag')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names, loaded = done.stdout.splitlines()
    assert "'Client'" in names
    assert loaded == "['hangtag'] ['hangtag', 'hangtag.errors']"


@pytest.mark.parametrize("name", hangtag.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(hangtag, name).__name__ == name


def test_the_names_are_those_of_the_client() -> None:
    assert (hangtag.Client, hangtag.ClientError) == (Client, ClientError)
    assert issubclass(hangtag.ClientError, hangtag.UserError)
    with pytest.raises(AttributeError, match="module 'hangtag' has no attribute 'Clint'"):
        _ = hangtag.Clint  # type: ignore[attr-defined]
