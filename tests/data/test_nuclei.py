import pytest

from segfocus.data import open_dataset
from segfocus.recipe import DataConfig
from tests.data.binary_folders import names_of, write_split


def test_every_published_split_has_folders_of_its_own(tmp_path):
    for split in ("train", "val", "test"):
        write_split(tmp_path, split, [f"{split}{number}" for number in range(3)])
    config = DataConfig(name="nuclei_dsb2018", root=str(tmp_path))
    for split in ("train", "val", "test"):
        assert names_of(config, split) == [f"{split}0", f"{split}1", f"{split}2"]
    assert len(names_of(config, "holdout")) == 1
    assert len(names_of(config, "fit")) == 2
    assert open_dataset(config, "val").read(0)[1].tolist() == [[1] * 4 + [0] * 4] * 6


@pytest.mark.real_data
def test_the_real_thing(shared_data):
    config = DataConfig(name="nuclei_dsb2018", root=str(shared_data / "nuclei_dsb2018"))
    lengths = [len(names_of(config, split)) for split in ("train", "val", "fit", "holdout")]
    assert lengths == [463, 67, 308, 155]
    counts = open_dataset(config, "val").pixel_counts()
    # Share of the pixels as published beside the data.
    assert 100 * counts[1] / counts.sum() == pytest.approx(16.1, abs=0.05)
