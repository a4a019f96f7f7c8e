"""The hash, the search and the second look, each against a slow twin; then what they find on altered pictures."""

import itertools
import math

import cv2
import numpy as np
import pytest

from segfocus.data.similarity import (
    ALIKE,
    CLOSE,
    Fingerprint,
    _bits_set,
    close_codes,
    fingerprint,
    likeness,
    perceptual_hash,
    same_views,
)

RNG = np.random.default_rng(0)


def scene(seed: int, size=(96, 128)) -> np.ndarray:
    """Rectangles and discs of random colours, RGB."""
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(25):
        color = rng.integers(0, 256, 3).tolist()
        y, x, height, width = (int(value) for value in rng.integers(0, 90, 4))
        if rng.random() < 0.5:
            cv2.rectangle(picture, (x, y), (x + width // 2, y + height // 2), color, -1)
        else:
            cv2.circle(picture, (x, y), 3 + height // 4, color, -1)
    return picture


def slow_hash(small: np.ndarray) -> int:
    """The cosine transform by its definition."""
    n, values = 32, small.astype(np.float64)
    frequencies = []
    for row, column in itertools.product(range(8), range(8)):
        waves = [
            [math.cos(math.pi * (2 * y + 1) * row / (2 * n)) * math.cos(math.pi * (2 * x + 1) * column / (2 * n))]
            for y in range(n)
            for x in range(n)
        ]
        scale = (math.sqrt(0.5) if row == 0 else 1) * (math.sqrt(0.5) if column == 0 else 1)
        frequencies.append(scale * float(np.array(waves).ravel() @ values.ravel()))
    middle = sorted(frequencies[1:])[31]
    bits = ["0"] + ["1" if value > middle else "0" for value in frequencies[1:]]
    return int("".join(bits), 2)


@pytest.mark.parametrize("seed", range(4))
def test_hash_equals_its_definition(seed):
    small = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
    assert perceptual_hash(small) == slow_hash(small)


def test_close_codes_equal_a_search_bit_by_bit(monkeypatch):
    monkeypatch.setattr("segfocus.data.similarity._CELLS", 100)  # several blocks
    first = RNG.integers(0, 2**64, 40, np.uint64)
    second = np.array([int(first[i]) ^ (1 << i) ^ (3 << (i % 7)) for i in range(30)], np.uint64)
    expected = []
    for column, code in enumerate(second.tolist()):
        near = sorted((bin(code ^ other).count("1"), row) for row, other in enumerate(first.tolist()))
        expected += [(row, column) for distance, row in near if distance <= 26][:3]
    rows, columns = close_codes(first, second, 26, 3)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert len(expected) > 50


def test_bits_are_counted_without_numpy_2(monkeypatch):
    values = RNG.integers(0, 2**64, (5, 7), np.uint64)
    expected = [[bin(value).count("1") for value in row] for row in values.tolist()]
    np.testing.assert_array_equal(_bits_set(values), expected)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(_bits_set(values), expected)


def test_likeness_is_the_median_correlation_of_the_blocks():
    first, second = (RNG.integers(0, 256, (3, 32, 32), np.uint8) for _ in range(2))
    second[1] = np.clip(first[1].astype(int) // 2 + 30, 0, 255)
    common = RNG.normal(0, 0.3, (32, 32)).astype(np.float32)
    found = likeness(first, second, common)
    for index in range(3):
        pair = [each[index].astype(np.float64) for each in (first, second)]
        pair = [(each - each.mean()) / (each.std() + 1) - common for each in pair]
        blocks = [
            np.corrcoef(*(each[y : y + 8, x : x + 8].ravel() for each in pair))[0, 1]
            for y in range(0, 32, 8)
            for x in range(0, 32, 8)
        ]
        assert found[index] == pytest.approx(np.median(blocks), abs=1e-4)


def test_blocks_flat_in_both_do_not_count():
    small = np.full((1, 32, 32), 90, np.uint8)
    small[0, :8, :16] = RNG.integers(0, 256, (8, 16))
    common = np.zeros((32, 32), np.float32)
    assert likeness(small, small, common)[0] == 0  # two blocks tell too little
    small[0, :8, :24] = RNG.integers(0, 256, (8, 24))
    assert likeness(small, small, common)[0] == pytest.approx(1, abs=1e-4)


def altered(picture: np.ndarray) -> dict[str, np.ndarray]:
    height, width = picture.shape[:2]
    _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    noise = np.random.default_rng(1).normal(0, 8, picture.shape)
    return {
        "compressed": cv2.imdecode(coded, cv2.IMREAD_COLOR),
        "halved": cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        "brighter": np.clip(picture.astype(int) + 25, 0, 255).astype(np.uint8),
        "grey": np.repeat(grey[..., None], 3, 2),
        "noisy": np.clip(picture + noise, 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("change", ["compressed", "halved", "brighter", "grey", "noisy"])
def test_altered_copies_are_found_and_nothing_else(change):
    training = [fingerprint(scene(seed)) for seed in range(40)]
    others = [fingerprint(altered(scene(seed))[change] if seed < 40 else scene(seed)) for seed in range(30, 60)]
    found = same_views([each for each in training if each], [each for each in others if each])
    assert [(row, column) for row, column, _ in found] == [(30 + column, column) for column in range(10)]
    assert all(ALIKE <= value <= 1.001 for *_, value in found)


def test_what_all_pictures_share_makes_none_alike():
    """Eyes, scans, faces: the same frame around everything brings all hashes close together."""
    inside = np.zeros((128, 128), np.uint8)
    cv2.circle(inside, (64, 64), 50, 1, -1)

    def eye(seed: int) -> Fingerprint:
        grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 60, (128, 128)), (0, 0), 2) * 2
        grey = np.where(inside == 1, np.clip(150 + grain, 60, 240), 0).astype(np.uint8)
        print_ = fingerprint(np.repeat(grey[..., None], 3, 2))
        assert print_ is not None
        return print_

    eyes = [eye(seed) for seed in range(24)]
    distances = [bin(a.code ^ b.code).count("1") for a, b in itertools.combinations(eyes, 2)]
    assert min(distances) <= CLOSE  # the hash alone would take them for copies
    assert same_views(eyes[:12], eyes[12:]) == []
    assert [pair[:2] for pair in same_views(eyes[:12], [eyes[3]])] == [(3, 0)]


def test_flat_and_missing_pictures():
    assert fingerprint(np.full((40, 50, 3), 7, np.uint8)) is None
    assert fingerprint(np.full((1, 1, 3), 7, np.uint8)) is None
    one = fingerprint(scene(0))
    assert one is not None
    assert same_views([], [one]) == same_views([one], []) == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "splits", "expected"),
    [
        ("deepcrack", ("train", "test"), [("11158", "11216")]),  # the same photograph in the published splits
        ("drive", ("train", "test"), []),  # all discs on black: 56 of 400 pairs have hashes within 6 bits
        ("nuclei_dsb2018", ("train", "val"), []),
        ("camvid", ("train", "val"), []),  # nearest frames are 1.3 s apart: names tell, pictures do not
    ],
)
def test_on_real_pictures(shared_data, name, splits, expected):
    prints, names = [], []
    for split in splits:
        files = sorted((shared_data / name / "images" / split).iterdir())
        pairs = [(fingerprint(cv2.imread(str(file))[..., ::-1].copy()), file.stem) for file in files]
        prints.append([each for each, _ in pairs if each is not None])
        names.append([stem for each, stem in pairs if each is not None])
    found = [(names[0][row], names[1][column]) for row, column, _ in same_views(*prints)]
    assert found == expected
