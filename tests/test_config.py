import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from idiolect.config import Settings, dump, override, read_toml, toml_value, validate
from idiolect.errors import UserError


class Oven(Settings):
    kind: Literal["oven"] = "oven"
    degrees: float = Field(default=200.0, gt=0)
    """Heat in degrees Celsius."""
    layers: int = 1


class Pan(Settings):
    kind: Literal["pan", "wok"]
    lid: bool = False
    degrees: float = 150.0


class Dough(Settings):
    from_: Path | None = Field(default=None, alias="from")
    """Where it comes from;
    a second line."""
    flour: tuple[str, ...] = ()
    grams: tuple[int, ...] = ()
    rest: Path | float = 0.5
    name: str = ""
    learning_rate: float = 1.0

    @model_validator(mode="after")
    def _check(self):
        if len(self.flour) > 3:
            raise ValueError("at most three kinds of flour")
        return self


class Bread(Settings):
    dough: Dough = Dough()
    heat: Annotated[Oven | Pan, Field(discriminator="kind")] = Oven()
    steps: int = Field(default=3, ge=1)
    seed: int | None = None


def problems(tables, *overrides):
    with pytest.raises(UserError) as caught:
        validate(Bread, override(tables, overrides, Bread), "bread.toml")
    return caught.value.what.splitlines()


# Problems


def test_every_problem_is_reported_at_once_with_file_key_and_what_was_expected():
    tables = {"steps": 0, "dough": {"flour": "rye", "nmae": "x"}, "heat": {"kind": "pan", "lid": 1}}
    assert problems(tables) == [
        "bread.toml: dough.flour: must be a valid array, not 'rye'",
        'bread.toml: dough.nmae: unknown key (did you mean "name"?)',
        "bread.toml: heat.lid: must be a valid boolean, not 1",
        "bread.toml: steps: must be greater than or equal to 1, not 0",
    ]


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"lr": 1}, 'lr: unknown key (did you mean "dough.learning_rate"?)'),
        ({"dough": {"lr": 1}}, 'dough.lr: unknown key (did you mean "learning_rate"?)'),
        ({"dough": {"lid": True}}, 'dough.lid: unknown key (did you mean "heat.lid"?)'),
        ({"dough": {"frm": "x"}}, 'dough.frm: unknown key (did you mean "from"?)'),
        ({"dough": {"from_": "x"}}, 'dough.from_: unknown key (did you mean "from"?)'),
        ({"haet": {}}, 'haet: unknown key (did you mean "heat"?)'),
        ({"heat": {"kind": "wok", "layers": 2}}, "heat.layers: is not a key of wok"),
        ({"qqqq": 1}, "qqqq: unknown key"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_right_one(tables, line):
    assert problems(tables) == [f"bread.toml: {line}"]


@pytest.mark.parametrize(
    ("heat", "line"),
    [
        ({"kind": "ovn"}, "heat.kind: must be one of 'oven', 'pan', 'wok' (did you mean \"oven\"?), not 'ovn'"),
        ({"lid": True}, "heat.kind: is not given"),
        ({"kind": "oven", "degrees": -3}, "heat.degrees: must be greater than 0, not -3"),
        (3, "heat: must be an object, not 3"),
    ],
)
def test_members_of_a_union_are_described_by_the_key_that_tells_them_apart(heat, line):
    assert problems({"heat": heat}) == [f"bread.toml: {line}"]


def test_a_choice_offers_the_nearest():
    class Size(Settings):
        size: Literal["small", "large"] = "small"

    with pytest.raises(UserError, match=r"must be 'small' or 'large' \(did you mean \"large\"\?\), not 'larg'"):
        validate(Size, {"size": "larg"}, "x")


def test_alternatives_of_one_key_are_one_line():
    assert problems({"dough": {"rest": [1]}}) == [
        "bread.toml: dough.rest: must be a valid string or must be a valid number"
    ]


def test_a_rule_over_several_keys_is_told_in_its_own_words():
    assert problems({"dough": {"flour": ["a", "b", "c", "d"]}}) == ["bread.toml: dough: at most three kinds of flour"]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(number):
    assert problems(tomllib.loads(f"[dough]\nlearning_rate = {number}"))[0].startswith(
        "bread.toml: dough.learning_rate: must be a finite number"
    )
    assert problems({}, f"heat.degrees={number}")  # text says nan, too
    assert "finite" in problems({"heat": {"kind": "oven"}}, f"heat.degrees={number}")[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "500"),
        ("steps", True),
        ("steps", 2.5),
        ("dough", {"name": 5}),
        ("heat", {"kind": "pan", "lid": "yes"}),
    ],
)
def test_kinds_of_value_are_not_converted_into_one_another(key, value):
    assert len(problems({key: value})) == 1


def test_a_whole_number_is_a_number():
    assert validate(Bread, {"dough": {"learning_rate": 2}}, "x").dough.learning_rate == 2.0


# Files


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = \xff", "not valid TOML"),
        (b"a = ", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, data, message):
    if data is not None:
        (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.toml .*{message}|x\.toml is {message}"):
        read_toml(tmp_path / "x.toml")
    with pytest.raises(UserError, match="cannot read"):
        read_toml(tmp_path)


# Overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dough.name=500", "500"),
        ("dough.name=a=b", "a=b"),
        ("dough.name=", ""),
        ("steps=500", 500),
        ("dough.learning_rate=1e-3", 0.001),
        ("dough.learning_rate=1", 1.0),
        ("dough.rest=0.25", 0.25),
        ("dough.rest=data/held.txt", Path("data/held.txt")),
        ("dough.from=old/one", Path("old/one")),
        ("dough.from=", None),
        ("seed=", None),
        ("dough.flour=rye", ("rye",)),
        ("dough.flour=2024", ("2024",)),
        ("dough.flour=['rye', 'wheat']", ("rye", "wheat")),
        ("dough.grams=5", (5,)),
        ("dough.grams=[5, 7]", (5, 7)),
        ("heat.degrees=180", 180.0),
    ],
)
def test_an_override_is_read_by_the_type_of_its_field(text, value):
    settings = validate(Bread, override({"heat": {"kind": "oven"}}, [text], Bread), "x")
    for part in text.partition("=")[0].split("."):
        settings = getattr(settings, {"from": "from_"}.get(part, part))
    assert settings == value and type(settings) is type(value)


def test_an_override_leaves_the_recipe_as_it_was_and_the_last_one_counts():
    tables = {"dough": {"name": "a"}}
    assert override(tables, ["dough.name=b", "dough.name=c"], Bread) == {"dough": {"name": "c"}}
    assert tables == {"dough": {"name": "a"}}


def test_overrides_that_cannot_be_read_are_reported_together():
    with pytest.raises(UserError) as caught:
        override({"steps": 3}, ["steps", "=4", "steps.more=5", "dough.name=\udcff"], Bread)
    assert caught.value.what == (
        '"steps" is not of the form key.path=value; "=4" is not of the form key.path=value; '
        "steps.more: steps is a value, not a table; 'dough.name=\\udcff' is not UTF-8 text"
    )


def test_an_override_cannot_bring_a_second_key():
    assert problems({}, "steps=5\nseed=7") == ["bread.toml: steps: must be a valid integer, not '5\\nseed=7'"]


# Writing


def test_a_dump_reads_like_the_documentation():
    bread = validate(Bread, {"dough": {"from": "a", "rest": 1e-7}, "heat": {"kind": "pan"}}, "x")
    assert dump(bread, "bread\nfor two") == (
        "# bread\n# for two\nsteps = 3\n# seed =\n\n"
        '[dough]\n# Where it comes from;\n# a second line.\nfrom = "a"\nflour = []\ngrams = []\nrest = 1e-07\n'
        'name = ""\nlearning_rate = 1.0\n\n'
        '[heat]\nkind = "pan"\nlid = false\ndegrees = 150.0\n'
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DOUGHS = st.builds(
    Dough,
    from_=st.none() | TEXT.map(Path),
    flour=st.lists(TEXT, max_size=3).map(tuple),
    grams=st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple),
    rest=NUMBERS | TEXT.map(Path),
    name=TEXT,
    learning_rate=NUMBERS,
)
HEATS = st.builds(Oven, degrees=NUMBERS.filter(lambda x: x > 0)) | st.builds(
    Pan, kind=st.sampled_from(["pan", "wok"]), lid=st.booleans(), degrees=NUMBERS
)
BREADS = st.builds(Bread, dough=DOUGHS, heat=HEATS, steps=st.integers(1, 2**63 - 1), seed=st.none() | st.integers(0, 9))


@given(BREADS, TEXT.filter(lambda text: text.isprintable()))
def test_a_dump_reads_back_equal(bread, heading):
    assert validate(Bread, tomllib.loads(dump(bread, heading)), "x") == bread


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=7,
)


@given(VALUES)
def test_a_value_reads_back_equal(value):
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, {1, 2}])
def test_what_toml_cannot_hold_is_refused(value):
    with pytest.raises(ValueError):
        toml_value(value)


def test_a_name_that_is_not_utf8_is_the_users_to_mend():
    with pytest.raises(UserError, match="is not UTF-8"):
        toml_value(Path("\udcff"))


def test_settings_are_frozen_and_documented_by_their_docstrings():
    with pytest.raises(ValueError, match="frozen"):
        Oven().layers = 2
    assert Oven.model_fields["degrees"].description == "Heat in degrees Celsius."
