"""Choosing a precision and fitting steps into a budget, with clocks and networks whose speed is known."""

import time

import pytest
import torch
from torch import nn

from segfocus.data.module import SegmentationData
from segfocus.errors import SegfocusError
from segfocus.output import Output
from segfocus.recipe import load_recipe
from segfocus.training import timing
from segfocus.training.optim import learning_rate_factor
from segfocus.training.prediction import predict
from segfocus.training.run import train
from segfocus.training.timing import choose_precision, steps_for_budget
from tests.training.scenes import metrics, tiny_recipe


class Slow(nn.Module):
    """Takes `seconds[dtype]` a forward pass, whatever the machine."""

    def __init__(self, fp32: float, bf16: float):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(9))
        self.seconds = {torch.float32: fp32, torch.bfloat16: bf16}

    def forward(self, image):
        on = torch.is_autocast_enabled("cpu")
        time.sleep(self.seconds[torch.bfloat16 if on else torch.float32])
        return Output(logits=image.mean(1, keepdim=True) * self.scale.view(1, -1, 1, 1))

    def loss(self, output, target):
        return {"mean": output.logits.mean()}


@pytest.fixture
def data():
    data = SegmentationData(tiny_recipe().data, seed=0)
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"), [(0.3, 0.02, "bf16-mixed"), (0.02, 0.3, "32-true"), (0.3, 0.3, "32-true")]
)
def test_bf16_is_chosen_on_cpu_only_where_it_is_faster(data, fp32, bf16, chosen):
    model = Slow(fp32, bf16)
    precision, measured = choose_precision(model, data, tiny_recipe(), torch.device("cpu"))
    assert precision == chosen
    assert fp32 <= measured["seconds_per_step"]["32-true"] < fp32 + 0.3  # a shared machine may be slower
    assert torch.equal(model.scale, torch.ones(9))  # the run's own network was not trained


def test_other_devices_are_not_timed(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    for device, precision in (("cuda", "16-mixed"), ("mps", "32-true")):
        assert choose_precision(Slow(0, 0), data, tiny_recipe(), torch.device(device)) == (precision, {})


def test_a_budget_holds_its_steps_and_validations(data):
    model = Slow(0.02, 0.02)
    before = data.start_step, data.total_steps
    steps, measured = steps_for_budget(model, data, tiny_recipe(validate_every=2.0), torch.device("cpu"), 60.0)
    assert (data.start_step, data.total_steps) == before
    step, validation = measured["seconds_per_step"], measured["seconds_per_validation"]
    assert 0.02 <= step < 0.5  # a shared machine may be slower
    assert 3 * 0.02 <= validation < 3 * 0.5
    # a validation every 6 steps: steps x (step + validation / 6) fill the budget but for its reserve and the timing
    assert 45 < steps * (step + validation / 6) < 60


def test_a_validation_is_timed_with_the_recipe_s_window_scales_and_flip(data, monkeypatch):
    seen = []

    def count(model, batch, recipe):
        seen.append(recipe.evaluation)
        return predict(model, batch, recipe)

    recipe = tiny_recipe()
    recipe.evaluation.window, recipe.evaluation.flip = [32, 32], True
    monkeypatch.setattr(timing, "predict", count)
    _, measured = steps_for_budget(Slow(0.01, 0.01), data, recipe, torch.device("cpu"), 60.0)
    assert seen == [recipe.evaluation] * 3
    # 48x64 pixels are covered by 2 x 3 windows of 32 pixels, each twice; three pictures
    assert measured["seconds_per_validation"] >= 3 * 2 * 6 * 0.01


def test_a_budget_too_short_for_one_step_is_refused(data):
    with pytest.raises(SegfocusError, match="expected time for at least one step"):
        steps_for_budget(Slow(0.05, 0.05), data, tiny_recipe(), torch.device("cpu"), 0.2)


@pytest.mark.slow
def test_a_budget_in_minutes_is_kept_stored_and_run_to_its_end(tmp_path):
    begin = time.monotonic()
    train(tiny_recipe(minutes=0.2, validate_every=10.0, precision="auto"), tmp_path / "run")
    spent = time.monotonic() - begin
    rows, validations = metrics(tmp_path / "run")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert f"steps: {len(rows)}\n" in text
    assert "minutes: null" in text
    assert "precision: auto" not in text
    assert max(validations) == len(rows)
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    last = learning_rate_factor(len(rows) - 1, len(rows), recipe.optimizer)  # the schedule ends with the run
    assert rows[len(rows)]["learning_rate"] == pytest.approx(recipe.optimizer.learning_rate * last)
    assert spent < 60  # five times the budget: the machine may be shared


def test_autocast_matches_the_names_of_the_recipe():
    for name, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        with timing.autocast(torch.device("cpu"), name):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
