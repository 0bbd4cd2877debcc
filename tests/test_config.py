"""Configs: what a recipe and the command line may say, and one clear error for all else."""

import ast
import pathlib

import pytest
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax.errors import UserError

RECIPES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))

TWO_STAGES = """
from ml_collections import ConfigDict

def get_config(arg="plain"):
    c = ConfigDict(dict(name=arg, steps=3, stage_order=("b", "a")))
    c.data = ConfigDict(dict(train=dict(own=dict(source="own.jsonl"))))
    c.stages = ConfigDict(dict(
        a=dict(lora=dict(rank=4), steps=5),
        b=dict(optimizer=dict(learning_rate=1), steps=7, data=dict(train=dict(
            other=dict(source="other.jsonl", weight=2)))),
    ))
    return c
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text: str = TWO_STAGES) -> str:
        path = tmp_path / "recipe.py"
        path.write_text(text)
        return str(path)

    return write


def recipe_of(**keys) -> str:
    return f"from ml_collections import ConfigDict\ndef get_config():\n return ConfigDict({keys!r})"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_import_ml_collections_alone(path):
    imported = _imported(path)
    if "medjax.recipes" in imported:  # what several have in common, and as easily read
        helper = pathlib.Path(__file__).parents[1] / "medjax" / "recipes.py"
        imported = imported - {"medjax.recipes"} | _imported(helper)
    assert imported == {"ml_collections"}
    assert config_lib.load(str(path)).name == path.stem


def _imported(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    return imported


def test_defaults_pass_their_own_check():
    config_lib.check(config_lib.defaults())


def test_recipe_argument(recipe):
    assert config_lib.load(recipe()).name == "plain"
    assert config_lib.load(f"{recipe()}:fancy").name == "fancy"


def test_stages_differ_from_the_rest_in_what_they_say(recipe):
    config = config_lib.load(recipe())
    assert config_lib.stage_names(config) == ("b", "a")
    a, b = (config_lib.stage_config(config, name) for name in "ab")
    assert (a.steps, a.lora.rank, a.optimizer.learning_rate) == (5, 4, 1e-4)
    assert (b.steps, b.lora.rank, b.optimizer.learning_rate) == (7, 0, 1.0)
    assert list(a.data.train) == ["own"]
    assert list(b.data.train) == ["other"]  # sources are replaced as a whole
    assert b.data.train.other.to_dict() == {
        "source": "other.jsonl", "folder": "", "split": "", "tasks": (), "modes": (),
        "image_root": "", "weight": 2.0, "phase": 0,
    }  # fmt: skip
    assert config.steps == 3


def test_one_stage_without_a_name(recipe):
    config = config_lib.load(recipe(recipe_of(steps=2)))
    assert config_lib.stage_names(config) == ("train",)
    assert config_lib.stage_config(config, "train").steps == 2


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("--config.optimizer.clip_norm=1", "optimizer.clip_norm", 1.0),
        ("--config.lora.targets=('q_proj','v_proj')", "lora.targets", ("q_proj", "v_proj")),
        ("--config.lora.targets=q_proj", "lora.targets", ("q_proj",)),
        ("--config.lora.targets=q_proj,v_proj", "lora.targets", ("q_proj", "v_proj")),
        (
            "--config.data.train.own.tasks=find it, look",
            "data.train.own.tasks",
            ("find it", "look"),
        ),
        ("--config.stage_order=a,b", "stage_order", ("a", "b")),
        ("--config.optimizer.options.b2=0.95", "optimizer.options.b2", 0.95),
        ("--config.optimizer.options.mu_dtype='float32'", "optimizer.options.mu_dtype", "float32"),
        ("--config.stages.b.optimizer.options.b2=0.9", "stages.b.optimizer.options.b2", 0.9),
        ("--config.evaluate.majority=false", "evaluate.majority", False),
        ("--noconfig.evaluate.majority", "evaluate.majority", False),
        ("--config.data.train.own.source=mine.jsonl", "data.train.own.source", "mine.jsonl"),
        ("--config.stages.b.optimizer.learning_rate=0.5", "stages.b.optimizer.learning_rate", 0.5),
        # Keys that the stage leaves alone in the recipe.
        ("--config.stages.b.lora.dropout=0.5", "stages.b.lora.dropout", 0.5),
        ("--config.stages.a.eval_every=3", "stages.a.eval_every", 3),
        ("--config.stages.a.lora.towers=vision_tower", "stages.a.lora.towers", ("vision_tower",)),
        ("--config.model=paligemma-3b-224", "model", "paligemma-3b-224"),
        ("--config.mesh.fsdp=4", "mesh.fsdp", 4),
    ],
)
def test_command_line(recipe, argument, key, value):
    config = config_lib.load(recipe(), [argument])
    for part in key.split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optimizer.schedul=cosine", "unknown key optimizer.schedul; known.*schedule"),
        ("--config.optimiser.schedule=cosine", "unknown key optimiser.schedule"),
        ("--config.steps.more=1", "unknown key steps.more"),
        ("--config.data.train.theirs.source=x", "unknown key data.train.theirs.source.*own"),
        ("--noconfig.evaluate.minority", "unknown key evaluate.minority"),
        ("--config.optimizer.schedule=cosin", "schedule is 'cosin', none of cosine, linear"),
        ("--config.stages.b.optimizer.learning_rate=-1", "stages.b: optimizer.learning_rate"),
        ("--config.stages.b.lora.ranks=4", "unknown key stages.b.lora.ranks"),
        ("--config.stages.b.name=other", "unknown key stages.b.name"),
        ("--config.stages.b.data.test.own.source=x", "unknown key stages.b.data.test.own.source"),
        ("--config.stages.c.steps=4", "unknown key stages.c.steps; known here: a, b"),
        ("--config.epochs=many", "epochs=many"),
        ("--config.eval_every=1.5", "eval_every=1.5"),
        ("--config.epochs", "config.epochs"),
        ("--config.epochs=nan", "epochs is nan"),
        ("--config.batch_size=0", "batch_size is 0; it must be at least 1"),
        ("--config.accumulation=3", "batch_size 16 cannot be cut into accumulation = 3"),
        ("--config.loss.label_smoothing=1", "label_smoothing is 1.0; it must be below 1"),
        ("--config.stage_order=('a',)", "stage_order.*does not name each"),
        # Both stages have steps of their own, one of them a rank and a learning rate.
        ("--config.steps=4", "their own steps; set --config.stages.a.steps and .*stages.b.steps"),
        ("--config.lora.rank=4", "their own lora.rank; set --config.stages.a.lora.rank"),
        ("--config.optimizer.learning_rate=1", "set --config.stages.b.optimizer.learning_rate"),
        ("--config.optimizer.options.b2=high", "optimizer.options.b2=high is no Python value"),
        ("--config.optimizer.options.b2.c=1", "unknown key optimizer.options.b2"),
        ("--config.optimizer.option.b2=1", "unknown key optimizer.option.b2"),
        ("--config.stages.c.optimizer.options.b2=1", "unknown key stages.c.*known here: a, b"),
        ("--config.lora.targets=('q_proj',", "targets"),
        ("--confg.epochs=4", "confg"),
        ("epochs=4", "epochs=4 is not --config.key=value"),
    ],
)
def test_command_line_errors(recipe, argument, message):
    with pytest.raises(UserError, match=message) as error:
        config_lib.load(recipe(), [argument])
    assert "command line" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recipe_of(stepps=2), "unknown key stepps; known here: .*steps"),
        (recipe_of(optimizer={"rate": 1}), "unknown key optimizer.rate"),
        (recipe_of(steps="2"), "steps is '2'; expected int"),
        (recipe_of(steps=2.0), "steps is 2.0; expected int"),
        (recipe_of(steps=True), "steps is True; expected int"),
        (recipe_of(optimizer=1), "optimizer must be a ConfigDict"),
        (recipe_of(model=3), "model must be a name"),
        (recipe_of(data={"train": {"a": "x.jsonl"}}), "data.train.a must be a ConfigDict"),
        (recipe_of(data={"train": {"a": {"path": "x"}}}), "unknown key data.train.a.path"),
        (recipe_of(stages={"a": {"stepps": 1}}), "stages.a: unknown key stepps"),
        (recipe_of(stages={"a": {"stages": {}}}), "stages.a must be"),
        (recipe_of(stages={"a": {"model": "x"}}), "stages.a sets model, which all stages"),
        (recipe_of(stages={"a": {"data": {"test": {}}}}), "stages.a sets data.test"),
        (recipe_of(lora={"rank": -1}), "lora.rank is -1"),
        ("get_config = 1 / 0", "fails: ZeroDivisionError"),
        ("def get_config():\n raise OSError('no disk')", "fails: OSError: no disk"),
        ("def get_config(): return {}", "returns no ConfigDict"),
        ("steps = 3", "fails: AttributeError.*get_config"),
        ("def get_config(:", "fails: SyntaxError"),
        ("import no_such_module", "fails: ModuleNotFoundError"),
    ],
)
def test_recipe_errors(recipe, text, message):
    path = recipe(text)
    with pytest.raises(UserError, match=message) as error:
        config_lib.load(path)
    assert path in str(error.value)


def test_no_recipe(tmp_path):
    for path in ("nowhere.py", tmp_path, tmp_path / "x.txt"):
        with pytest.raises(UserError, match="is no"):
            config_lib.load(str(path))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="is no Python file"):
        config_lib.load(str(tmp_path / "x.txt"))


def test_a_name_in_the_place_of_a_models_sizes(recipe):
    path = recipe(recipe_of(model={"img": {"width": 96}, "llm": {"width": 96}}))
    assert config_lib.load(path).model.img.width == 96
    config = config_lib.load(path, ["--config.model=paligemma-3b-224"])
    assert config.model == "paligemma-3b-224"


def test_options_of_the_command_line_join_the_recipes(recipe):
    path = recipe(recipe_of(optimizer={"options": {"b1": 1}}, stages={"a": {"steps": 3}}))
    config = config_lib.load(path, ["--config.optimizer.options.b1=0.8"])
    assert config_lib.stage_config(config, "a").optimizer.options.to_dict() == {"b1": 0.8}
    config = config_lib.load(path, ["--config.stages.a.optimizer.options.b2=0.9"])
    assert config_lib.stage_config(config, "a").optimizer.options.to_dict() == {"b1": 1, "b2": 0.9}
    assert config.optimizer.options.to_dict() == {"b1": 1}
    # Now they are the stage's own.
    with pytest.raises(UserError, match=r"set --config.stages.a.optimizer.options.b1"):
        config_lib.override(config, ["--config.optimizer.options.b1=0.7"])


def test_a_stage_may_differ_from_what_the_others_are_given(recipe):
    for order in (1, -1):
        arguments = ["--config.stages.a.eval_every=3", "--config.eval_every=5"][::order]
        config = config_lib.load(recipe(), arguments)
        every = {name: config_lib.stage_config(config, name).eval_every for name in "ab"}
        assert every == {"a": 3, "b": 5}


def test_a_config_survives_json(recipe):
    import json

    config = config_lib.load(recipe())
    again = config_lib.resolve(ConfigDict(json.loads(json.dumps(config.to_dict()))))
    for name in ("a", "b"):
        assert config_lib.stage_config(again, name) == config_lib.stage_config(config, name)
