"""Reports of different repositories do not overwrite each other."""

from pathlib import Path

import pytest

from hangtag.export.report import report_path


@pytest.mark.parametrize(
    ("version", "page"),
    [
        ("models/cnn/3", "cnn-3.html"),
        ("{here}/models/cnn/3", "cnn-3.html"),
        ("other/cnn/3", "other/cnn-3.html"),
        ("team/shop/cnn/3", "team-shop/cnn-3.html"),
        ("{here}/team/shop/cnn/3", "team-shop/cnn-3.html"),
        ("./models/../other/cnn/3", "other/cnn-3.html"),
        ("cnn/3", "{name}/cnn-3.html"),
        ("/srv/models/cnn/3", "srv-models/cnn-3.html"),
        ("/cnn/3", "root/cnn-3.html"),
    ],
)
def test_each_repository_has_a_folder_of_its_own_but_the_default_one(
    version: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = Path("reports") / page.format(name=tmp_path.name)
    assert report_path(Path("reports"), Path(version.format(here=tmp_path))) == expected
