from segfocus.verbs.scores_text import show_scores


def scores(per_class, pictures=1):
    return {
        "per_class": per_class,
        "miou": 0.5,
        "pixel_accuracy": 0.75,
        "boundary_iou": {"3": 0.25, "2%": None},
        "n_pictures": pictures,
    }


def test_absent_classes_are_counted_and_means_come_last(capsys):
    show_scores(scores({"road": 0.123, "moon": None}))
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "IoU in percent, 1 picture; 1 class occurs nowhere"
    assert "moon" not in out
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["12.3", "50.0", "75.0", "25.0", "–"]


def test_of_very_many_classes_the_lowest_are_shown(capsys):
    show_scores(scores({f"c{index}": index / 100 for index in range(40)}, pictures=3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "IoU in percent, 3 pictures; the lowest 10 of 40 classes"
    assert [line.split()[0] for line in lines[1:11]] == [f"c{index}" for index in range(10)]
    assert len(lines) == 1 + 10 + 4


def test_where_errors_lie_is_told_in_shares_of_the_regions(capsys):
    item = {"total": 9, "recall": [0.2, 0.5], "best": [0.3, 0.6], "chance": [0.1, 0.25]}
    nothing = {"total": 0, "recall": [None, None], "best": [None, None], "chance": [None, None]}
    part = {"ratios": [0.05, 0.25], "amounts": {"error": item, "error_before": nothing}}
    show_scores(scores({"road": 0.5}) | {"importance": part})
    last = capsys.readouterr().out.splitlines()[-1].split("  ")
    assert [text for text in last if text] == [
        "errors in the 25 % most important regions",
        "50.0 (at best 60.0, by chance 25.0)",
    ]
