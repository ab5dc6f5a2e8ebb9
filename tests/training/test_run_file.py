"""Run files: strict, staged, and the papers' numbers where they say so."""

import json
import os
from random import Random

import pytest

from dreamfactory.cli import main
from dreamfactory.errors import DreamFactoryError, SettingsError, TrainingError
from dreamfactory.schedulers import ScheduleError
from dreamfactory.training.run_file import PRESETS, from_dict, load_run


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("optim.learning_rate=1", "unknown setting optim.learning_rate"),
        ("optim.stepps=1", "Did you mean 'steps'"),
        ("optm.steps=1", "Did you mean 'optim'"),
        ("optim.steps=many", "expected int"),
        ("optim.betas=0.9", "expected 2 values"),
        ("seed", "has no '='"),
        ("data=3", "expected a table"),
        ("seed.x=3", "seed is no table"),
        ("stage.2.optim.steps=3", "stage is no list of tables"),
        ("optim.batch_size=0", "expected at least 1"),
        ("optim.accumulate=3", "does not divide into 3 rounds"),
        ("optim.betas=[0.9,5.0]", "expected 0 to 1"),
        ("optim.lr_scale={'spacial':1.0}", "no part 'spacial'"),
        ("threads=-1", "expected at least 1"),
        ("data.height=60", "multiples of 8"),
        ("data.mix={'tony':1.0}", "sources are tiny"),
        ("sources={}", "nothing to train on"),
        ("sources.tiny.kind=folder", "sources.tiny.path is empty"),
        ("loss.flow_weight=1.0", "predict_net = true"),
        ("model.train=['pacca']", "no part 'pacca'"),
        ("precision=fp8", "expected one of fp32, bf16, fp16"),
        ("schedule.preset=sd", "no schedule.preset 'sd'"),
        ("output.loggers=['mlflow']", "expected tensorboard or wandb"),
        ("optim.betas=(-0.5, 0.9)", "optim.betas[0] is -0.5"),
        ("optim.lr_scale={'spatial':-1.0}", "optim.lr_scale.spatial is -1.0"),
        ("seed=-1", "expected at least 0"),
        (f"seed={2**70}", "expected less than 2**62"),
        ("output.folder=", "output.folder is empty"),
        ("output.validation_steps=0", "expected 1 to 1000"),
        ("sources={'a/b':{'kind':'tiny_world'}}", "source 'a/b': names are"),
        ("stage=[{'name':'../x'}]", "stage '../x': names are"),
        ("model.train=['predict_net']", "learns from loss.flow_weight"),
        ("stage=[{'model':{'lora':{'rank':2}}},{}]", "model.lora differs between stages"),
    ],
)
def test_settings_are_strict(change, sentence):
    with pytest.raises(DreamFactoryError) as error:
        load_run("demo", [change])
    assert sentence in str(error.value)


def test_a_missing_run_file_names_the_presets():
    with pytest.raises(TrainingError, match="demo"):
        load_run("nowhere.toml")


@pytest.mark.parametrize("name", sorted(p.stem for p in PRESETS.glob("*.toml")))
def test_presets_are_valid_and_survive_json(name):
    config = load_run(name)
    assert from_dict(config.to_dict()) == config


def test_a_stage_is_the_run_with_some_settings_changed(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        """
        [sources.a]
        kind = "tiny_world"
        [sources.b]
        kind = "tiny_stills"
        [optim]
        lr = 1.0
        steps = 7
        [data]
        mix = { a = 0.5, b = 0.5 }
        [[stage]]
        name = "low"
        [[stage]]
        name = "high"
        data = { height = 128, width = 128, mix = { a = 1.0 } }
        optim = { steps = 9 }
        """
    )
    low, high = load_run(file).stages
    assert (low.optim.steps, low.optim.lr, low.data.mix) == (7, 1.0, {"a": 0.5, "b": 0.5})
    assert (high.optim.steps, high.optim.lr, high.data.mix, high.data.height) == (9, 1.0, {"a": 1.0}, 128)
    config = load_run(file, ["stage.high.optim.steps=3", "stage.1.data.frames=4", "optim.lr=2.0"])
    assert [s.optim.steps for s in config.stages] == [7, 3]
    assert config.stages[0].data.frames == 4
    assert [s.optim.lr for s in config.stages] == [2.0, 2.0]
    with pytest.raises(SettingsError, match="choose from low, high"):
        load_run(file, ["stage.middle.optim.steps=3"])
    with pytest.raises(SettingsError, match=r"unknown setting stage\.2\.dta\. Did you mean 'data'"):
        load_run(file, ["stage.2.dta.frames=3"])


def test_paper_presets_hold_the_printed_numbers():
    """FD 3.3, 3.4 and 4.1; VF 4, C.3 and D.1."""
    fd = load_run("factorized-dreamer")
    sizes = [(s.data.frames, s.data.height, s.data.width, s.optim.steps) for s in fd.stages]
    assert sizes == [(32, 256, 256, 400_000), (16, 512, 512, 300_000), (16, 512, 512, 100_000)]
    assert [s.loss.flow_weight for s in fd.video_stages] == [0.0, 0.0, 1.0]
    assert [s.model.network().predict_net for s in fd.video_stages] == [False, False, True]
    for stage in fd.video_stages:
        assert (stage.optim.batch_size, stage.optim.lr, stage.optim.optimizer) == (40, 5e-5, "adamw")
        assert stage.optim.cosine_from == 1.0
        assert (stage.noise.prediction, stage.noise.rescale, stage.noise.shift_reference) == ("eps", "printed", 256.0)
    shifts = [round(s.noise.shift_for(s.data.frames, s.data.height, s.data.width), 4) for s in fd.video_stages]
    assert shifts == [0.1768, 0.125, 0.125]

    vf = load_run("videofactory")
    assert [s.optim.steps for s in vf.stages] == [18_000, 10_000, 12_500]
    assert [set(s.data.mix) for s in vf.stages] == [{"webvid", "hdvg", "laion"}, {"hdvg", "laion"}, {"hdvg", "laion"}]
    assert [s.model.network().swap_attention for s in vf.video_stages] == ["off", "off", "swapped"]
    assert vf.sources["laion"].min_aspect == pytest.approx(4 / 3, abs=1e-3)
    for stage in vf.video_stages:
        optim = stage.optim
        assert (stage.data.width, stage.data.height) == (344, 192)
        assert (optim.batch_size, optim.lr, optim.betas, optim.weight_decay) == (128, 1e-5, (0.9, 0.9), 0.3)
        assert stage.dropout.all == 0.2
        assert (stage.noise.beta_start, stage.noise.beta_end, stage.noise.prediction) == (0.00085, 0.012, "eps")
    assert vf.output.guidance_scale == 9.0
    assert vf.output.validation_steps == 50


# -- paths and numbers ---------------------------------------------------------------------------------------------

PATHS = (
    "sources.mine.path", "start.network", "data.cache", "encoders.codec", "encoders.text", "encoders.motion",
    "encoders.image", "output.folder",
)  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("spelt", ["~/there", "$DREAMS/there", "${DREAMS}/there"])
def test_home_and_environment_count_in_every_path(tmp_path, monkeypatch, name, spelt):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DREAMS", str(tmp_path))
    file = tmp_path / "run.toml"
    *tables, leaf = name.split(".")
    source = "" if tables[0] == "sources" else "[sources.m]\npath = 'x'\n"
    if leaf == "cache":  # goes with frozen encoders alone
        source += "[encoders]\ntext = 't'\nmotion = 'm'\nimage = 'i'\n"
    file.write_text(f'[{".".join(tables)}]\n{leaf} = "{spelt}"\n{source}')
    config = load_run(file)
    owner = config.stages[0] if tables[0] == "data" else config
    for table in tables:
        owner = owner[table] if isinstance(owner, dict) else getattr(owner, table)
    assert getattr(owner, leaf) == os.path.join(tmp_path, "there")
    assert type(getattr(owner, leaf)) is str


def test_patches_are_paths_too_and_a_variable_that_is_not_set_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMS", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    config = load_run("tiny", ['start.patches=["$DREAMS/a", "b"]'])
    assert config.start.patches == (f"{tmp_path}/a", "b")
    with pytest.raises(SettingsError, match=r"'\$NOWHERE/x', and no environment variable NOWHERE is set"):
        load_run("tiny", ["output.folder=$NOWHERE/x"])


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "run.toml").write_bytes("\ufeffseed = 3\n[sources.m]\npath = 'x'\n".encode())
    assert load_run(tmp_path / "run.toml").seed == 3


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("name", ["optim.lr", "data.fps", "loss.flow_weight", "schedule.shift"])
def test_no_number_is_infinite(tmp_path, name, number):
    table, leaf = name.split(".")
    (tmp_path / "run.toml").write_text(f"[{table}]\n{leaf} = {number}\n[sources.m]\npath = 'x'\n")
    with pytest.raises((SettingsError, ScheduleError), match=rf"{leaf} is -?(inf|nan)"):
        load_run(tmp_path / "run.toml")


@pytest.mark.parametrize("text", ["2024", "1e3", "true", "None", "007", "0x10", "(a", "a=b"])
def test_what_set_says_is_a_name_where_a_name_is_asked_for(text):
    config = load_run("tiny", [f"sources.tiny.path={text}", f"output.folder={text}"])
    assert config.sources["tiny"].path == config.output.folder == text


def test_what_set_says_is_read_by_the_settings_type():
    changes = [
        "optim.lr=1e-3", "threads=none", "model.config.paca=false", "output.loggers=()", "data.mix={'tiny': 1}",
        "schedule.shift=0.5", "encoders.text='a folder'", "model.train=['paca']", "data.cache=none",
    ]  # fmt: skip
    config = load_run("tiny", changes)
    (stage,) = config.video_stages
    assert (stage.optim.lr, config.threads, stage.model.config["paca"]) == (1e-3, None, False)
    assert (config.output.loggers, stage.data.mix, stage.schedule["shift"]) == ((), {"tiny": 1.0}, 0.5)
    assert (config.encoders.text, stage.model.train, stage.data.cache) == ("a folder", ("paca",), None)
    for change, told in (
        ("optim.steps=many", "expected int"),
        ("seed=true", "expected int"),
        ("seed=1.5", "expected int"),
    ):
        with pytest.raises(DreamFactoryError, match=told):
            load_run("tiny", [change])
    for text in ("...", "…"):
        with pytest.raises(SettingsError, match="is a placeholder; write your own value"):
            load_run("tiny", [f"start.network={text}"])


def test_a_stage_of_no_steps_is_passed_over(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        "[sources.m]\nkind = 'tiny_world'\n[[stage]]\nname = 'one'\n[[stage]]\nname = 'two'\noptim = { steps = 7 }\n"
    )
    config = load_run(file, ["stage.one.optim.steps=0"])
    assert [(s.name, s.optim.steps) for s in config.stages] == [("two", 7)]
    assert from_dict(config.to_dict()) == config
    with pytest.raises(TrainingError, match=r"optim\.steps is 0; expected at least 1"):
        load_run(file, ["optim.steps=0", "stage.two.optim.steps=0"])


def test_a_cache_with_encoders_that_train_is_refused_before_anything_is_read():
    with pytest.raises(TrainingError, match=r"encoders\.text trains"):
        load_run("tiny", ["data.cache=cache"])
    with pytest.raises(TrainingError, match=r"encoders\.motion trains"):
        load_run("tiny", ["data.cache=cache", "encoders.text=folder"])


HOSTILE = {
    "deep.toml": "a = " + "[" * 5000 + "]" * 5000,
    "deep.json": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested.json": '{"optim": ' * 40 + "1" + "}" * 40,
    "name.json": json.dumps({"x" * 100_000: 1}),
    "value.json": json.dumps({"precision": "x" * 100_000}),
    "list.json": json.dumps({"output": {"loggers": ["y" * 100_000]}}),
    "half.json": '{"precision": "\\ud800"}',
    "number.json": '{"seed": 1' + "0" * 4000 + "}",
    "float.json": '{"optim": {"lr": 1e999}}',
    "null.json": '{"optim": null}',
    "line.json": json.dumps({"a\nb": 1}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_run_files_are_one_short_sentence(tmp_path, capsys, name):
    (tmp_path / name).write_text(HOSTILE[name])
    assert main(["train", str(tmp_path / name), "--plan"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert len(told.replace(str(tmp_path), "")) < 400


def test_run_files_with_one_value_replaced_are_told(tmp_path, capsys):
    """Seeded: anything in the place of anything of a resolved run."""
    quick = ["model.config.channel_mult=[1]", "model.config.attention_levels=[true]", "data.frames=2"]
    random, whole = Random(0), load_run("tiny", quick).to_dict()
    values = [
        None,
        True,
        -1,
        0,
        2**70,
        1e308,
        float("inf"),
        "",
        "x",
        "\ud800",
        [],
        [[]],
        {},
        {"a": {}},
        ["x"] * 50,
        "é",
    ]
    for case in range(60):
        broken = json.loads(json.dumps(whole))
        table, path = broken, []
        while isinstance(table, dict | list) and table and (not path or random.random() < 0.85):
            key = random.choice(list(table) if isinstance(table, dict) else range(len(table)))
            path.append((table, key))
            table = table[key]
        owner, key = path[-1]
        owner[key] = random.choice(values)
        (tmp_path / "run.json").write_text(json.dumps(broken))
        code = main(["train", str(tmp_path / "run.json"), "--plan"])
        assert code in (0, 2), (case, key, owner[key])
        assert len(capsys.readouterr().err.replace(str(tmp_path), "")) < 700


def test_settings_come_on_top_of_a_written_run(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(load_run("demo").to_dict()))
    assert load_run(path) == load_run("demo")
    changed = load_run(path, ["optim.lr=0.123", "data.frames=3"])
    assert [(stage.optim.lr, stage.data.frames) for stage in changed.stages] == [(0.123, 3)] * len(changed.stages)
    with pytest.raises(TrainingError, match="gan_weight is of super-resolution"):
        load_run(path, ["loss.gan_weight=0.5"])
    with pytest.raises(TrainingError, match="upscaler is of super-resolution"):
        load_run(path, ["upscaler.groups=2"])
