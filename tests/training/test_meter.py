from srcluster.models import build
from srcluster.recipe import Recipe
from srcluster.training import meter
from srcluster.training.precision import choose


def test_the_time_left_leaves_out_the_steps_that_compiled(monkeypatch):
    now_s = 0.0
    recipe = Recipe.model_validate({"name": "r", "scale": 2, "model": {"kind": "srcnn"}, "steps": 1000})
    network = build(recipe.model, recipe.scale)
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now_s)
    monkeypatch.setattr(meter, "_peak_flops", lambda *_: 1e12)
    speed = meter.Meter(recipe, network, choose("fp32"), 1, 0, 1000)
    now_s = 500.0
    assert speed.metrics(100)["train/time_left_s"] == 4500  # All that is known.
    now_s = 510.0
    assert speed.metrics(200)["train/time_left_s"] == 80
    now_s = 530.0
    assert speed.metrics(300)["train/time_left_s"] == 105  # With an evaluation of ten seconds.
