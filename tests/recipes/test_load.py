import pytest

from idiolect import config
from idiolect.errors import UserError
from idiolect.models.presets import PRESETS
from idiolect.recipes import load
from idiolect.recipes.curate import load_curation
from idiolect.recipes.settings import Recipe

CURATIONS = ["curate", "curate-web"]


@pytest.mark.parametrize("name", CURATIONS)
def test_a_recipe_for_a_curation_can_be_shown_edited_and_read_back(name, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(load.show_recipe(name), encoding="utf-8")
    assert load_curation(str(file)) == load_curation(name)
    with pytest.raises(UserError, match="is a recipe for a curation"):
        load.load(name)
    with pytest.raises(UserError, match="is no recipe for a curation"):
        load_curation("gpt")


@pytest.mark.parametrize("name", sorted(load.names().keys() - set(CURATIONS)))
def test_every_recipe_that_ships_can_be_shown_edited_and_read_back(name, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(load.show_recipe(name), encoding="utf-8")
    mine, notes = load.load(str(file))
    shipped, _ = load.load(name, [f"data.train={load.EXAMPLE_TEXT}"])
    assert mine == shipped and not notes


def test_the_eight_sizes_of_gpt3_are_recipes():
    assert set(PRESETS) <= set(load.names())
    recipe, _ = load.load("gpt3-xl", ["data.train=x.txt"])
    assert (recipe.model.heads, recipe.model.width, recipe.train.learning_rate) == (16, 2048, 2e-4)
    assert recipe.train.batch_tokens == pytest.approx(1e6, rel=0.01)


def test_one_key_changes_the_family_and_leaves_everything_else():
    gpt, _ = load.load("gpt", ["data.train=x.txt"])
    for kind in ("ngram", "rnn", "lstm", "gru"):
        other, notes = load.load("gpt", ["data.train=x.txt", f"model.kind={kind}"])
        assert other.model.kind == kind
        assert other.model_copy(update={"model": gpt.model}) == gpt
        assert "model.heads" in notes[0]


def test_a_key_given_by_hand_is_never_left_out():
    with pytest.raises(UserError, match="heads"):
        load.load("gpt", ["data.train=x.txt", "model.kind=lstm", "model.heads=2"])


def test_every_problem_is_named_at_once_with_the_nearest_key():
    wrong = ["data.train=x.txt", "train.stpes=5", "train.batch_tokens=0", "model.width=abc"]
    with pytest.raises(UserError) as error:
        load.load("gpt", wrong)
    for part in ("train.stpes", "steps", "train.batch_tokens", "model.width", "abc"):
        assert part in error.value.what


def test_an_unknown_recipe_offers_the_nearest_name():
    with pytest.raises(UserError, match="gpt"):
        load.load("gtp", ["data.train=x.txt"])


def test_a_recipe_without_text_says_how_to_give_one():
    with pytest.raises(UserError, match=r"data\.train"):
        load.load("gpt")


def test_a_single_path_needs_no_brackets_and_is_never_taken_for_a_number():
    for path in ("text.txt", "123", "1e5", "true"):
        recipe, _ = load.load("gpt", [f"data.train={path}"])
        assert [str(p) for p in recipe.data.train] == [path]


def test_the_saved_recipe_is_the_recipe(tmp_path):
    recipe, _ = load.load("gpt", ["data.train=x.txt", "tokenizer.from=tok", "train.warmup_steps=3"])
    (tmp_path / "r.toml").write_text(config.dump(recipe))
    assert config.validate(Recipe, config.read_toml(tmp_path / "r.toml"), "r") == recipe
