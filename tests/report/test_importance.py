"""What the page says about a method's importance map."""

import xml.etree.ElementTree as ElementTree

import pytest

from segfocus.report.importance import importance, importance_words, recalls_at
from tests.report.scores import full_scores


def part(**amounts):
    return {"importance": {**full_scores()["importance"], "amounts": amounts}}


def item(recall, chance=(0.1, 0.25, 0.5)):
    return {
        "total": 1234,
        "recall": list(recall),
        "best": [0.6, 0.8, 1.0],
        "chance": list(chance),
        "gain": [0.5, None, -0.25],
        "area": 0.6,
        "best_area": 0.9,
    }


def test_charts_and_rows_are_of_what_there_was_to_find():
    found = importance(full_scores())
    assert [chart["heading"] for chart in found["charts"]] == ["Errors", "Boundary pixels"]
    assert found["words"].endswith("32 px. Rank correlation with the regions' share of errors: 0.62.")
    rows = [[cell.text for cell in row] for row in found["table"].rows]
    assert rows == [
        ["Errors", "900", "34.0", "60.0", "55.0", "60.0", "70.0", "85.0"],
        ["Boundary pixels", "4\u202f000", "21.0", "55.0", "45.0", "57.0", "65.0", "75.0"],
    ]
    titles = [column.title for column in found["table"].columns]
    assert titles[2:6] == [
        "Found in 10 % of the regions",
        "Gain, 10 % of the regions",
        "Found in 25 % of the regions",
        "Gain, 25 % of the regions",
    ]


def test_chart_draws_three_curves_from_nothing_found():
    chart = ElementTree.fromstring(importance(part(error=item([0.3, 0.5, 0.8])))["charts"][0]["chart"])
    words = chart[1].text
    assert words.startswith("10 %: by importance 30.0 %, at best 60.0 %, by chance 10.0 %; 25 %: by importance 50.0 %")
    shown = [text.text for text in chart.iter("text")]
    for label in ("by importance", "at best", "by chance", "30", "80", "most important regions, %"):
        assert label in shown


@pytest.mark.parametrize(("recall", "lead"), [(0.16, "It knows"), (0.14, "It hardly knows"), (0.02, "It hardly knows")])
def test_a_network_is_said_to_know_only_what_chance_does_not(recall, lead):
    found = importance_words(part(error=item([recall, 0.5, 0.8])))
    assert found[0] == f"{lead} where it is wrong:"
    assert found[1].endswith(f"hold {100 * recall:.0f} % of the errors (by chance 10 %, at best 60 %).")


def test_errors_before_refining_come_first():
    found = importance_words(part(error=item([0.1, 0.2, 0.3]), error_before=item([0.5, 0.6, 0.7])))
    assert "hold 50 % of the errors before refining" in found[1]


@pytest.mark.parametrize("scores", [{}, {"importance": None}, {"importance": {}}, part(), part(thin={"total": 0})])
def test_nothing_is_said_where_nothing_was_counted(scores):
    assert importance(scores) is None
    assert importance_words(scores) is None


def test_shares_that_were_not_counted_are_left_out():
    found = part(error=item([0.3, 0.5, 0.8]))
    found["importance"]["ratios"] = [0.05, 0.25, 0.5]
    assert recalls_at(found["importance"], "error", 0.25) == (0.5, 0.8, 0.25)
    assert recalls_at(found["importance"], "error", 0.1) is None
    assert importance_words(found) is None
    assert len(importance(found)["table"].columns) == 6
