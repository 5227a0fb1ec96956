import pytest
from pydantic import ValidationError

from srcluster.recipe.pipeline import Pipeline
from srcluster.recipe.validation import explain


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"preset": "realesrgn"}, "there is no preset 'realesrgn', did you mean 'realesrgan'?"),
        ({"preset": "web", "steps": []}, "give either preset or steps"),
        ({"steps": [{"kind": "blur", "sigma": [3, 1]}]}, r"a range is \[least, most\]"),
        ({"steps": [{"kind": "blur", "kernels": {"sinc": 0}}]}, "one of kernels has a share above 0"),
        ({"steps": [{"kind": "resize", "up": 0.7, "down": 0.7}]}, "up and down are shares"),
        ({"steps": [{"kind": "jpeg", "quality": [0, 95]}]}, "greater than or equal to 1"),
        ({"steps": [{"kind": "jpg"}]}, "did you mean 'jpeg'"),
    ],
)
def test_what_is_wrong_is_said(values, sentence):
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate({"kind": "pipeline", **values})
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(explain(caught.value, Pipeline))


def test_a_preset_is_written_out():
    preset = Pipeline.model_validate({"kind": "pipeline", "preset": "web"})
    assert Pipeline.model_validate(preset.model_dump(mode="json")) == preset
