"""A folder a class becomes images and classes; mixtures and damaged images are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.data.importers import Assembly, Options, find_parts, scan_part
from hpcml.errors import ConfigError, DataError
from tests.data.importers.reading import read

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def draw(path, shape=(6, 5, 3), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def assembled(folder, **options):
    chosen = Options(**options)
    specs, attributes, notes = find_parts([str(folder)], chosen)
    return Assembly(specs, [scan_part(spec, chosen) for spec in specs], chosen), attributes, notes


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    truth = [draw(tmp_path / name, seed=i) for i, name in enumerate(("ant/b.png", "ant/c/a.png", "bee/a.png", "cat/1.PNG"))]
    made, attributes, notes = assembled(tmp_path)
    found = read(made, 0, 4)
    np.testing.assert_array_equal(found["x"], np.stack(truth).transpose(0, 3, 1, 2))
    assert found["y"].tolist() == [0, 0, 1, 2]
    assert attributes == {"y@classes": ["ant", "bee", "cat"]}
    assert notes == []


def test_grey_images_have_no_axis_of_channels_and_a_folder_without_folders_no_classes(tmp_path):
    truth = draw(tmp_path / "a.png", (4, 7))
    (tmp_path / "read.me").touch()
    made, attributes, notes = assembled(tmp_path)
    np.testing.assert_array_equal(read(made, 0, 1)["x"][0], truth)
    assert set(made.fields) == {"x"}
    assert attributes == {}
    assert "1 files that are not images" in notes[0]


def test_sizes_and_kinds_can_be_brought_together(tmp_path):
    draw(tmp_path / "a.png", (6, 5, 3))
    draw(tmp_path / "b.png", (8, 8))
    made, _, _ = assembled(tmp_path, size=(4, 3), mode="L")
    assert read(made, 0, 2)["x"].shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("shape", "words"), [((7, 5, 3), "7x5 pixels.*6x5.*--size"), ((6, 5), "L.*RGB.*--mode"), ((6, 5, 4), "RGBA.*--mode")]
)
def test_mixtures_are_refused_with_both_files_and_the_remedy(tmp_path, shape, words):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", shape)
    with pytest.raises(DataError, match=rf"b\.png.*{words}"):
        assembled(tmp_path)


def test_mixtures_across_blocks_are_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcml.data.importers.assembly.BLOCK", 1)
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", (7, 5, 3))
    with pytest.raises(DataError, match=r"b\.png: is 7x5 pixels, .*a\.png is 6x5"):
        assembled(tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    draw(tmp_path / "a.png", (60, 60, 3))
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[: len(raw) // 2])
    made, _, _ = assembled(tmp_path)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read(made, 0, 1)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.png: is not an image"):
        assembled(tmp_path)


def test_a_folder_without_images_or_with_loose_ones_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        assembled(tmp_path)
    draw(tmp_path / "empty" / "a.png")
    draw(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"loose\.png: stands beside folders"):
        assembled(tmp_path)


def test_without_pillow_the_package_is_named(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ConfigError, match="pip install pillow"):
        assembled(tmp_path)
