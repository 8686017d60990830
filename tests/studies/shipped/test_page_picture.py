"""`python -m studies shipped page-picture`, with the real server in Chromium."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from studies.shipped import page_picture

pytestmark = pytest.mark.slow


def test_the_picture_shows_the_page(tmp_path: Path) -> None:
    out = tmp_path / "page.png"
    arguments = ["--seconds", "0", "--http-port", "0", "--out", str(out)]
    result = CliRunner().invoke(page_picture.main, arguments, catch_exceptions=False)
    assert result.output == "drew page.png\n"
    picture = Image.open(out)
    assert picture.size == (1200, 960)
    pixels = np.asarray(picture.convert("RGB"), np.int64)
    # The colours of the route, which is the second series, of the third one, and of the time in a queue.
    for colour in ((0xD9, 0x48, 0x0F), (0x0F, 0x8A, 0x6C), (0xC9, 0x85, 0x00)):
        assert np.abs(pixels - colour).max(axis=-1).min() <= 12


def test_without_chromium_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(page_picture.main, [])
    assert result.exit_code == 1
    assert "chromium is missing: 'apt-get install chromium' brings it." in result.output
