"""YAML is understood as it looks, or refused with the line."""

import pytest

from srcluster.errors import UserError
from srcluster.recipe import load
from srcluster.recipe.yaml_files import read_yaml

RECIPE = "steps: 3\nmodel: {kind: srcnn}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1e5", -1e5),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0", 0),
        ("2024-13-45", "2024-13-45"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("x1e4", "x1e4"),
        ("'010'", "010"),
        ("{<<: {a: 1}, a: 2}", {"a": 2}),
    ],
)
def test_what_is_understood(text, value):
    assert read_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3: a is given twice"),
        ("a: 1\n'a': 3", "x, line 2: a is given twice"),
        ("a:\n  b: {c: 1, c: 2}", "x, line 2: c is given twice"),
        ("a: 010", "x, line 1: some read 010 as octal"),
        ("a:\n- 1:30", "x, line 2: some read 1:30 as a number of base 60"),
        ("a: &b {c: *b}", "x, line 1: found unconstructable recursive node"),
        ("a: !!python/object:os.system x", "x, line 1: could not determine a constructor"),
        ("a: !!timestamp 2024-13-01", "x is not valid YAML: month must be in 1..12"),
        ("a: 1__0", "x is not valid YAML"),
        ("[1]: 2", "x, line 1: found unhashable key"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(UserError) as error:
        read_yaml(text, "x")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_are_read(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_text("# München\n" + RECIPE, encoding)
    assert load(str(path)).steps == 3


@pytest.mark.parametrize(
    ("encoding", "words"), [("latin-1", "line 4: this is not UTF-8"), ("utf-16-le", "line 4: this is not UTF-8")]
)
def test_encodings_that_are_not(tmp_path, encoding, words):
    path = tmp_path / "a.yaml"
    path.write_text(RECIPE + "\n# München\n", encoding)
    with pytest.raises(UserError, match=words):
        load(str(path))
