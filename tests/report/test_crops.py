"""Windows against slow twins; what is kept against sorting everything."""

import itertools

import cv2
import numpy as np
import pytest

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.report import Entry, Pictures, write_report
from segfocus.report.crops import Window, commonest_mistake, densest_windows, draw_crop, window_side
from segfocus.report.images import embed
from segfocus.report.pictures import Worst

CLASSES = Classes.of(["ground", "wall", "pole"], thin=["pole"])


def scene(seed: int, size=(200, 260), baseline=False) -> Entry:
    rng = np.random.default_rng(seed)
    target = np.kron(rng.integers(0, 3, (size[0] // 20, size[1] // 20)), np.ones((20, 20))).astype(np.uint8)
    target[:5] = 255

    def wrong(share):
        noise = np.kron(rng.random((size[0] // 10, size[1] // 10)) < share, np.ones((10, 10))).astype(np.uint8)
        return np.where(target == 255, 1, (target + noise) % 3).astype(np.uint8)

    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return Entry(f"s{seed}", picture, target, wrong(0.2), baseline=wrong(0.3) if baseline else None)


def decode(source: str) -> np.ndarray:
    import base64

    data = np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_the_greedy_best(seed):
    rng = np.random.default_rng(seed)
    mask, side = rng.random((23, 31)) < 0.3, 7
    taken, expected = [], []
    for _ in range(3):
        best = None
        for top, left in itertools.product(range(23 - side + 1), range(31 - side + 1)):
            if any(abs(top - a) < side and abs(left - b) < side for a, b in taken):
                continue
            hits = int(mask[top : top + side, left : left + side].sum())
            if best is None or hits > best.hits:
                best = Window(top, left, side, hits)
        expected.append(best)
        taken.append((best.top, best.left))
    assert densest_windows(mask, side, 3) == expected


def test_no_windows_without_hits_or_side():
    assert densest_windows(np.zeros((20, 20), bool), 5) == []
    assert densest_windows(np.ones((20, 20), bool), 0) == []
    only = np.zeros((20, 20), bool)
    only[3, 4] = True
    assert len(densest_windows(only, 5)) == 1


@pytest.mark.parametrize(
    ("size", "side"),
    [((360, 480), 96), ((1024, 2048), 256), ((600, 800), 192), ((100, 400), 96), ((12, 16), 0), ((90, 900), 0)],
)
def test_window_side(size, side):
    assert window_side(*size) == side


def test_crops_show_the_window_enlarged_with_its_own_colours():
    entry = scene(0)
    window = Window(20, 40, 96, 1)
    mistake = commonest_mistake(entry.target, entry.prediction, entry.prediction != entry.target, window)
    crop = draw_crop(entry, window, CLASSES, mistake)
    shown = {image.title: decode(image.source) for image in crop.images}
    assert list(shown) == ["picture", "truth", "prediction", "error"]
    expected = np.kron(viz.color_map(entry.target, CLASSES)[20:116, 40:136], np.ones((3, 3, 1), np.uint8))
    assert (shown["truth"] == expected).all()  # label maps are kept exactly
    assert {image.shape for image in shown.values()} == {(288, 288, 3)}
    assert (crop.images[0].width, crop.images[0].height) == (288, 288)


def test_commonest_mistake_counts_the_pairs_under_the_mask():
    entry = scene(1)
    window, mask = Window(10, 10, 50, 1), entry.target != entry.prediction
    found = commonest_mistake(entry.target, entry.prediction, mask & (entry.target != 255), window)
    pairs: dict[tuple[int, int], int] = {}
    for row, column in itertools.product(range(10, 60), range(10, 60)):
        truth, guess = int(entry.target[row, column]), int(entry.prediction[row, column])
        if truth not in (255, guess):
            pairs[truth, guess] = pairs.get((truth, guess), 0) + 1
    assert pairs[found.truth, found.guess] == max(pairs.values())


@pytest.mark.parametrize("seed", range(20))
def test_worst_keeps_the_best_of_all_with_few_alike(seed):
    rng = np.random.default_rng(seed)
    items = [(float(rng.integers(0, 12)), f"{rng.integers(0, 4)}") for _ in range(60)]
    worst: Worst[int] = Worst(6, alike=2)
    for number, (rank, group) in enumerate(items):
        if worst.accepts(rank, group):
            worst.add(rank, number, group)
    expected, groups = [], []
    for number in sorted(range(60), key=lambda n: (-items[n][0], n)):
        if len(expected) < 6 and groups.count(items[number][1]) < 2:
            expected.append(number)
            groups.append(items[number][1])
    assert [items[number] for number in worst.items()] == [items[number] for number in expected]


def test_pictures_keep_windows_of_each_kind():
    pictures = Pictures(CLASSES, worst=6)
    for seed in range(5):
        pictures.add(scene(seed, baseline=True))
    assert {kind: len(pictures.crops(kind)) > 0 for kind in ("wrong", "thin", "broken", "fixed")} == dict.fromkeys(
        ("wrong", "thin", "broken", "fixed"), True
    )
    shares = [crop.window.share for crop in pictures.crops()]
    assert shares == sorted(shares, reverse=True)
    for kind in ("wrong", "thin", "broken", "fixed"):
        crops = pictures.crops(kind)
        mistakes = [crop.mistake for crop in crops]
        assert len(crops) <= (6 if kind == "wrong" else 3)
        assert max(map(mistakes.count, mistakes)) <= pictures.alike(kind) == 1
        assert [image.title for image in crops[0].images] == ["picture", "truth", "baseline", "prediction", "changes"]
    assert all(crop.mistake.startswith("pole taken for") for crop in pictures.crops("thin"))


def test_without_baseline_or_pictures_there_is_less_to_show():
    pictures = Pictures(CLASSES, worst=4)
    entry = scene(3)
    pictures.add(Entry(entry.name, None, entry.target, entry.prediction))
    assert pictures.crops("broken") == []
    assert [image.title for image in pictures.crops()[0].images] == ["truth", "prediction", "error"]
    assert [image.title for image in pictures.cards()[0].images] == ["truth", "prediction", "error"]


def test_no_pictures_are_kept_when_none_are_wanted():
    pictures = Pictures(CLASSES, worst=0)
    pictures.add(scene(0))
    assert (pictures.cards(), pictures.crops(), pictures.seen) == ([], [], 1)


@pytest.mark.parametrize("part", ["prediction", "baseline", "picture"])
def test_sizes_that_differ_are_refused(part):
    entry = scene(0, baseline=True)
    parts = {"picture": entry.picture, "prediction": entry.prediction, "baseline": entry.baseline}
    parts[part] = parts[part][1:]
    with pytest.raises(SegfocusError, match=f"s0: expected {part} and labels of one size"):
        Pictures(CLASSES).add(Entry("s0", target=entry.target, **parts))


def test_embedded_photographs_are_close_and_label_maps_exact():
    drawn = np.asarray(cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8), (64, 64)))
    assert np.abs(decode(embed("x", drawn, False).source).astype(int) - drawn).mean() < 8
    assert (decode(embed("x", drawn, True).source) == drawn).all()


def test_a_window_with_few_hits_does_not_say_none(tmp_path):
    target = np.zeros((200, 260), np.uint8)
    prediction = target.copy()
    prediction[50, 60] = 1
    pictures = Pictures(CLASSES)
    pictures.add(Entry("a", None, target, prediction))
    page = write_report(tmp_path, "t", {}, pictures).read_text(encoding="utf-8")
    assert "&lt;1 % wrong, mostly ground taken for wall" in page
