"""`segfocus report` from the command line: files in, page and JSON out, and one line for every kind of bad input."""

import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import yaml

from segfocus import allocator
from segfocus.cli import main
from tests.report.folders import CLASSES, NAMES, guess_of, make_folders, probabilities_of, save, slow_scores, truth_of


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch):
    """Commands run inside the test process: its allocator stays as it is."""
    monkeypatch.setenv(allocator.VARIABLE, "default")


class Case:
    """Folders, a classes file, and the verb called on them."""

    def __init__(self, root, capsys, names=NAMES):
        self.predictions, self.labels = make_folders(root, names)
        self.classes = root / "classes.yaml"
        self.classes.write_text(yaml.safe_dump(CLASSES.to_dict()))
        self.page, self.json = root / "out" / "report.html", root / "scores.json"
        self._capsys = capsys

    def run(self, *options, predictions=None, metrics="basic"):
        """Exit status, standard output and standard error."""
        arguments = ["--predictions", predictions or self.predictions, "--labels", self.labels]
        arguments += ["--classes", self.classes, "--out", self.page.parent, "--json", self.json, *options]
        code = main(["report", *map(str, arguments), "--metrics", metrics])
        return code, *self._capsys.readouterr()

    def refused(self, *options, code=2, **others):
        """The one line of the error; nothing was written."""
        status, out, error = self.run(*options, **others)
        assert (status, out) == (code, "")
        assert not self.page.exists()
        assert not self.json.exists()
        lines = [line for line in error.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1
        return lines[0]

    @property
    def scores(self):
        return json.loads(self.json.read_text())


@pytest.fixture
def case(tmp_path, capsys):
    return Case(tmp_path, capsys)


ALL = range(len(NAMES))


def expected(indices=ALL):
    """mIoU."""
    return float(np.mean(slow_scores([(truth_of(index), guess_of(index)) for index in indices])["iou"]))


def test_page_and_json(case, tmp_path):
    for index, name in enumerate(NAMES):
        save(tmp_path / "before" / f"{name}.png", guess_of(index, 0.4))
        save(tmp_path / "images" / f"{name}.png", np.full((24, 32, 3), 99, np.uint8))
    code, out, error = case.run(
        *("--baseline", tmp_path / "before", "--images", tmp_path / "images", "--measured", f"crf={tmp_path}/before"),
        *("--title", "<b>Mine</b>"),
        metrics="all",
    )
    assert code == 0
    assert f"{100 * expected():.1f}" in out
    assert str(case.page) in out
    changed = case.scores["baseline"]["changed"]
    assert f"against {tmp_path.name}/before: mIoU +" in out
    assert f"{changed['fixed']} px fixed, {changed['broken']} px broken" in out.replace("\u202f", "")
    assert error.count("note: ") == len([line for line in error.splitlines() if line])
    assert "note: --predictions: read as labels (uint8, train ids)" in error
    scores = case.scores
    assert scores["miou"] == pytest.approx(expected())
    assert scores["n_pictures"] == len(NAMES)
    assert scores["baseline"]["changed"]["fixed"] > 0
    assert scores["measured"][0]["name"] == "crf"
    assert scores["headroom"]["rows"]
    assert scores["how"]["command"].startswith("segfocus report --predictions ")
    page = case.page.read_text(encoding="utf-8")
    assert "<b>Mine" not in page
    assert "&lt;b&gt;Mine&lt;/b&gt;" in page


def test_probabilities_in_raw_order_with_endings(case, tmp_path):
    for index, name in enumerate(NAMES):
        raw = np.zeros((27, 24, 32), np.float16)
        raw[[7, 17, 26]] = probabilities_of(index)
        save(tmp_path / "soft" / f"{name}_pred.npz", raw)
    values = {**CLASSES.to_dict(), "ignore": [v for v in range(256) if v not in (4, 7, 17, 26)]}
    case.classes.write_text(yaml.safe_dump(values))
    code, _, error = case.run(
        *("--prediction-ids", "raw", "--prediction-suffix", "_pred"),
        predictions=tmp_path / "soft",
        metrics="calibration",
    )
    assert code == 0
    assert "read as probabilities (float16, raw ids)" in error
    assert case.scores["miou"] == pytest.approx(expected())
    assert case.scores["calibration"]["ece"] > 0


def test_html_file_as_target(case, tmp_path):
    assert case.run("--out", tmp_path / "mine.html")[0] == 0
    assert (tmp_path / "mine.html").is_file()


class TestBadInput:
    def test_missing_predictions(self, case):
        (case.predictions / "a.png").unlink()
        line = case.refused()
        assert line.startswith(
            f"segfocus: error: --predictions {case.predictions}: expected a file for each of 6 labels"
        )
        assert "got none for 1: a; try --allow-missing" in line
        code, _, error = case.run("--allow-missing")
        assert code == 0
        assert "1 of 6 labels have no file there and are left out" in error
        assert case.scores["missing"] == ["a"]
        assert case.scores["miou"] == pytest.approx(expected(range(1, 6)))

    def test_other_size(self, case):
        for index, name in enumerate(NAMES):
            save(case.predictions / f"{name}.png", guess_of(index).repeat(2, 0).repeat(2, 1))
        assert "expected the label's size 24x32, got 48x64; try --resize nearest" in case.refused()
        assert case.run("--resize", "nearest")[0] == 0
        assert case.scores["miou"] == pytest.approx(expected())

    def test_values_outside_the_classes(self, case):
        for name in NAMES:
            save(case.predictions / f"{name}.png", np.full((24, 32), 7, np.uint8))
        line = case.refused()
        assert "a.png: expected train ids 0 to 2, got 7 at" in line
        assert "try --prediction-ids raw" in line

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda soft: soft * np.nan, "got NaN or infinity 2304 times"),
            (lambda soft: soft * 0.5, "expected probabilities that sum to 1 at each pixel, got 0.500"),
            (lambda soft: soft * 9, "expected probabilities in [0, 1]"),
        ],
    )
    def test_probabilities_that_are_none(self, case, tmp_path, change, words):
        for index, name in enumerate(NAMES):
            save(tmp_path / "soft" / f"{name}.npz", change(probabilities_of(index)))
        assert words in case.refused(predictions=tmp_path / "soft")

    def test_empty_folders(self, case, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "expected files (" in case.refused(predictions=tmp_path / "empty")
        assert "got an empty folder" in case.refused("--labels", tmp_path / "empty")
        assert "got nothing there" in case.refused("--images", tmp_path / "none")

    def test_classes_file_with_a_typo(self, case):
        case.classes.write_text("classes:\n  0: {name: road, raws: [7]}\n  1: pole\n")
        assert "class 0: unknown key 'raws'; did you mean raw" in case.refused()
        case.classes.write_text("classes:\n  0: {name: road\n")
        assert "classes.yaml: expected YAML" in case.refused()
        case.classes.unlink()
        assert "expected a YAML file, got" in case.refused()

    def test_a_corrupt_file_among_many(self, tmp_path, capsys):
        names = [f"{index:03}" for index in range(120)]
        case = Case(tmp_path, capsys, names)
        bad = case.predictions / "077.png"
        bad.write_bytes(bad.read_bytes()[:-30])
        code, out, error = case.run()
        assert code == 1
        assert str(case.page) in out
        assert "1 picture could not be measured" in error
        assert f"  {bad}: expected a complete picture" in error
        assert case.scores["miou"] == pytest.approx(expected([index for index in range(120) if index != 77]))
        assert case.scores["n_pictures"] == 119
        assert len(case.scores["failures"]) == 1
        assert "077.png: expected a complete picture" in case.page.read_text(encoding="utf-8")

    @pytest.mark.parametrize("option", ["--predictions", "--labels", "--classes"])
    def test_what_is_needed(self, capsys, option):
        given = {"--predictions": "a", "--labels": "b", "--classes": "c"}
        del given[option]
        assert main(["report", *(text for item in given.items() for text in item)]) == 2
        assert f"report: expected {option}, got none" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--prediction-ids", "rwa"), "unknown ids 'rwa'; did you mean raw"),
            (("--prediction-kind", "label"), "unknown kind 'label'; did you mean labels?"),
            (("--resize", "cubic"), "unknown resize 'cubic'; expected one of: bilinear, nearest"),
            (("--measured", "crf"), "--measured: expected NAME=DIR with different names, got 'crf'"),
            (("--measured", "a=b", "--measured", "a=c"), "got 'a=c'"),
            (("--predicitons", "x"), "unknown option --predicitons; did you mean --predictions"),
            (("--worst", "-1"), "expected --worst from 0"),
            (("--boundary-distances", "0"), "--boundary-distances: expected numbers above 0"),
            (("--json", "."), "--json: expected a file to write"),
            (("--label-suffix", "_x"), "--label-suffix: expected names that end in '_x'"),
        ],
    )
    def test_options(self, case, options, words):
        assert words in case.refused(*options)

    def test_unknown_metrics(self, case):
        assert "--metrics: unknown 'regoins'; did you mean regions?" in case.refused(metrics="regoins")


@pytest.fixture
def heeds_ctrl_c():
    """Also where the suite was started in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("where", ["segfocus.report.pictures.Pictures.add", "segfocus.files.os.fsync"])
def test_stopped_by_ctrl_c(case, tmp_path, monkeypatch, where):
    """While measuring, and while the first result is being written: no half-written file, no thread left."""
    before, threads = sorted(tmp_path.rglob("*")), threading.active_count()
    monkeypatch.setattr(where, lambda *_: signal.raise_signal(signal.SIGINT))
    code, out, error = case.run()
    assert code == 130
    assert out == ""
    assert error.endswith("segfocus: stopped\n")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]
    assert threading.active_count() == threads


def test_starts_without_torch_and_draws_nothing_heavy_before_it_needs_it():
    code = (
        "import sys, segfocus.verbs.report, segfocus.report.from_files;"
        "print(sorted({'torch', 'matplotlib', 'scipy', 'skimage', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
