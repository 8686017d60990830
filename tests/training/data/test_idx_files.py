"""A user's own pictures in IDX files, and files that are not valid IDX files."""

from pathlib import Path

import numpy as np

from hangtag import idx
from hangtag.training.data import sources
from tests.kit import own_pictures
from tests.training.data.shown import contents, refused, show


def test_idx_files_of_any_size_are_read(tmp_path: Path) -> None:
    root = own_pictures.idx(tmp_path / "zipped")
    found = show(f"idx:{root}")
    assert (found["image"]["height"], found["image"]["width"], found["image"]["channels"]) == (9, 8, 1)
    assert found["labels"] == {label: {"train": 18, "validation": 2, "test": 6} for label in ("0", "1")}
    assert show(f"idx:{own_pictures.idx(tmp_path / 'plain', zipped=False)}")["digest"] == found["digest"]
    assert show(f"idx:{root}", "--validation-share", 0.5)["splits"] == {"train": 20, "validation": 20, "test": 12}
    assert contents(f"idx:{root}", split_seed=1) != contents(f"idx:{root}")
    assert show(f"idx:{root}", "--size", "16x12", "--fit", "pad")["image"]["height"] == 16
    colours = own_pictures.idx(tmp_path / "colours", size=(9, 8, 3))
    assert show(f"idx:{colours}")["image"]["channels"] == 3
    assert sources.load(f"idx:{colours}").test.images.shape == (12, 9, 8, 3)
    shape = np.zeros((12, 9, 8, 2), np.uint8)
    own_pictures.write_idx(root / "t10k-images-idx3-ubyte", shape, zipped=True)
    assert "must be [n, height, width] or" in refused(f"idx:{root}")


def test_values_of_any_datatype_are_read_if_they_are_whole_numbers_from_0_to_255(tmp_path: Path) -> None:
    root = own_pictures.idx(tmp_path, zipped=False)
    found = show(f"idx:{root}")
    for name, kind, datatype in (("images-idx3", 13, ">f4"), ("labels-idx1", 12, ">i4")):
        file = root / f"train-{name}-ubyte"
        values = idx.parsed(file.read_bytes(), file).astype(datatype)
        own_pictures.write_idx(file, values, kind=kind)
        assert show(f"idx:{root}") == found
        own_pictures.write_idx(file, values * 300, kind=kind)
        assert "Convert them to whole numbers from 0 to 255." in refused(f"idx:{root}")
        own_pictures.write_idx(file, values, kind=kind)
    file.rename(root / "emnist-digits-train-labels-idx1-ubyte")
    assert "has no file train-labels-idx?-ubyte, with or without .gz. Rename the files." in refused(f"idx:{root}")


def test_files_that_are_no_idx_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    root = own_pictures.idx(tmp_path, zipped=False)
    file = root / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    no_header = "is not an IDX file, which begins with the bytes 0, 0, a datatype (8 to 14) and the number of axes."
    for content, expected in (
        (b"", no_header), (b"\0\0\x08", no_header), (b"a text that is long enough", no_header),
        (whole[:-1], "has 2,879 bytes after its header, which announces 40 x 9 x 8 values: it is cut off"),
    ):  # fmt: skip
        file.write_bytes(content)
        assert expected in refused(f"idx:{root}")
    file.with_name(f"{file.name}.gz").write_bytes(whole)
    assert "cannot be read (it is not a gzip file, or is cut off)." in refused(f"idx:{root}")
    file.with_name(f"{file.name}.gz").unlink()


def test_what_a_published_set_repeats_is_in_one_split_and_its_test_stays_whole(tmp_path: Path) -> None:
    pictures = np.stack([own_pictures.noise(seed) for seed in range(40)])
    pictures[20:30] = pictures[10]  # the same picture with both labels
    root = own_pictures.idx(tmp_path, zipped=False)
    own_pictures.write_idx(root / "train-images-idx3-ubyte", pictures)
    own_pictures.write_idx(root / "t10k-images-idx3-ubyte", np.concatenate([pictures[:11], pictures[:1]]))
    found = show(f"idx:{root}")
    assert found["splits"] == {"train": 17, "validation": 2, "test": 12}
    assert "Left out 21 copies of other pictures in the source: train 0; train 1; train 2; " in str(found["notes"])
    assert "; train 10 (0) and train 20 (0) and train 21 (1) and " in str(found["notes"])
