from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from segfocus.data.module import RunBatchSampler, SegmentationData, ShardSampler, epoch_order
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.test_folder import write_pairs


def test_an_epoch_holds_every_picture_once():
    keys = [key for batch in RunBatchSampler(10, 4, 0, 0, 5) for key in batch]
    assert sorted(index for epoch, index in keys if epoch == 0) == list(range(10))
    assert sorted(index for epoch, index in keys if epoch == 1) == list(range(10))
    assert [epoch for epoch, _ in keys] == [0] * 10 + [1] * 10
    assert [index for epoch, index in keys if epoch == 1] == epoch_order(10, 0, 1).tolist()


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(12, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(("length", "batch"), [(10, 4), (3, 8), (1, 2), (8, 8)])
def test_a_resumed_run_sees_the_same_batches(length, batch):
    whole = list(RunBatchSampler(length, batch, 5, 0, 12))
    sampler = RunBatchSampler(length, batch, 5, 7, 12)
    assert list(sampler) == whole[7:]
    assert len(sampler) == 5
    assert sampler.steps_per_epoch == length / batch


def test_ranks_share_each_batch():
    whole = list(RunBatchSampler(10, 4, 1, 2, 9))
    shares = [list(RunBatchSampler(10, 4, 1, 2, 9, rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(first + second)
        assert len(first) == len(second) == 2


def test_refused_samplers():
    with pytest.raises(SegfocusError, match="multiple of the 2 processes, got 3; try 2"):
        RunBatchSampler(10, 3, 0, 0, 1, 0, 2)
    with pytest.raises(SegfocusError, match="expected pictures, got none"):
        RunBatchSampler(0, 3, 0, 0, 1)


def test_shards_repeat_nothing():
    shards = [list(ShardSampler(7, rank, 3)) for rank in range(3)]
    assert sorted([index for shard in shards for index in shard]) == list(range(7))
    assert [len(ShardSampler(7, rank, 3)) for rank in range(3)] == [3, 2, 2]


@pytest.fixture
def config(tmp_path):
    config = write_pairs(tmp_path, count=10)
    config.crop, config.batch_size, config.workers, config.val_share = [8, 8], 4, 0, 0.24
    return config


def test_loaders(config):
    data = SegmentationData(config, seed=3)
    data.setup("fit")
    assert data.classes.names == ("class_0", "class_1")
    assert data.train_dataset.classes is data.classes
    assert data.steps_per_epoch == 7 / 4
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    assert batches[0]["image"].shape == (4, 3, 8, 8)
    assert batches[0]["target"].dtype == torch.int64
    # one by one, so that scores do not depend on how many processes share them
    assert [len(batch["name"]) for batch in data.val_dataloader()] == [1, 1, 1]


def test_a_run_is_one_pass_and_resumes(config):
    data = SegmentationData(config, seed=3)
    data.total_steps = 5
    whole = list(data.train_dataloader())
    data.start_step = 3
    resumed = list(data.train_dataloader())
    assert len(whole) == 5
    assert len(resumed) == 2
    for first, second in zip(whole[3:], resumed, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert first["name"] == second["name"]


def test_validation_pictures_of_several_sizes_come_one_by_one(config, tmp_path):
    config.val_images, config.val_masks = config.images, config.masks
    Image.new("RGB", (12, 9)).save(tmp_path / "images/city/04.jpg")
    Image.new("L", (12, 9)).save(tmp_path / "masks/city/04.png")
    data = SegmentationData(config)
    batches = list(data.val_dataloader())
    assert [batch["image"].shape[-2:] for batch in batches][4] == (9, 12)
    assert len(batches) == 10


def test_training_pictures_of_several_sizes_need_a_crop(config, tmp_path):
    Image.new("RGB", (12, 9)).save(tmp_path / "images/city/04.jpg")
    Image.new("L", (12, 9)).save(tmp_path / "masks/city/04.png")
    config.crop = None
    config.val_images, config.val_masks = config.images, config.masks
    with pytest.raises(SegfocusError, match=r"expected one size for all, got several; try --data.crop"):
        SegmentationData(config).setup()


def test_each_process_validates_its_share(config):
    names = []
    for rank in range(2):
        data = SegmentationData(config)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        names += [name for batch in data.val_dataloader() for name in batch["name"]]
        assert len(next(iter(data.train_dataloader()))["name"]) == 2
    assert sorted(names) == sorted(pair.name for pair in data.val_dataset.pairs)


def test_workers_change_nothing_and_report_in_one_line(config, tmp_path):
    data = SegmentationData(config, seed=3)
    expected = list(data.train_dataloader())
    config.workers = 2
    for first, second in zip(expected, data.train_dataloader(), strict=True):
        assert torch.equal(first["image"], second["image"])
    for path in (tmp_path / "masks/city").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SegfocusError, match=r"^[^\n]*masks/city/\d\d.png: expected [^\n]*$"):
        list(data.train_dataloader())


def test_errors_without_workers_stay_as_they_are(config, tmp_path):
    data = SegmentationData(config)
    data.setup()
    for path in (tmp_path / "images/city").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SegfocusError, match=r"^[^\n]*jpg: expected a picture file, got a file of 0 bytes[^\n]*$"):
        list(data.train_dataloader())


def test_a_class_absent_from_a_split(tmp_path):
    config = write_pairs(tmp_path, count=3, values=(0, 1, 2))
    other = write_pairs(tmp_path / "other", count=2, values=(0, 1))
    config.val_images, config.val_masks, config.workers, config.batch_size = other.images, other.masks, 0, 1
    data = SegmentationData(config)
    assert data.classes.num_classes == 3
    assert data.val_dataset.pixel_counts()[2] == 0


def test_synthetic_module():
    data = SegmentationData(DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[32, 48], workers=0))
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 3, 32, 48)
    assert [batch["target"].shape for batch in data.val_dataloader()] == [(1, 32, 48)] * 2
