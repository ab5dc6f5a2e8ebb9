"""Captions: held to transformers' own `generate` called by hand, to commands that are really run, and to tables."""

import importlib.util
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dreamfactory.curation import image_to_text
from dreamfactory.curation.captions import Captioner, Shown, check_captions, open_captioner
from dreamfactory.curation.commands import run
from dreamfactory.curation.config import CaptionsConfig, CurationConfig
from dreamfactory.curation.rows import Clip
from dreamfactory.errors import DreamFactoryError, InputError, LibraryError, SettingsError
from dreamfactory.settings import build, override

from ..there import there
from . import tiny_models
from .tiny_models import CAPTIONERS, IMAGE, SIDE, pictures, save, transformers

TOKENS = 6
SIZES = ((40, 30), (40, 30), (60, 30), (30, 30))
POSIX = pytest.mark.skipif(os.name == "nt", reason="a script with a #! line is no program on Windows")


def row(name: str = "clip", duration: float = 3.0) -> Clip:
    return Clip(
        clip=name, source=f"{name}.mp4", source_id="", scene=0, start=0.0, end=duration, first_pts=0, last_pts=0,
        time_base="1/90000", frames=90, duration=duration, fps=30.0, begins_by="start", ends_by="end",
        source_width=64, source_height=64, crop_left=0, crop_top=0,
        crop_width=64, crop_height=64, width=64, height=64, aspect=1.0,
    )  # fmt: skip


def seen(frames: list[Image.Image], name: str = "clip") -> Shown:
    return Shown(row(name), lambda: frames, Path("none.jpg"))


def told(columns: dict) -> Shown:
    return Shown(row(), lambda: [], Path("none.jpg"), columns=columns)


def config(folder: object, **others: Any) -> CaptionsConfig:
    return CaptionsConfig(**({"kind": "transformers", "path": str(folder), "max_tokens": TOKENS} | others))


def opened(folder: object, **others: Any) -> Captioner:
    check_captions(config(folder, **others))
    return there(open_captioner(config(folder, **others)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, made when it is first asked for."""
    made: dict[str, Path] = {}

    def get(kind: str, make: Callable | None = None) -> Path:
        if kind not in made:
            made[kind] = save(tmp_path_factory.mktemp("models") / kind, make or CAPTIONERS[kind])
        return made[kind]

    return get


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of a folder that may be spoilt."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(folders(kind), tmp_path / kind))

    return copy


def by_hand(folder: Path, frames: list[list[Image.Image]], text: str = "", prompt: str = "") -> list[str]:
    """What transformers says of each clip alone. text: all that the model reads; prompt: what of it is echoed."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    two = model.config.model_type == "vision-encoder-decoder"
    processor = (transformers.AutoImageProcessor if two else transformers.AutoProcessor).from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    said = []
    for clip in frames:
        inputs = processor(images=clip, return_tensors="pt", **({"text": text} if text else {}))
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=TOKENS)
        whole = " ".join(words.decode(ids[0], skip_special_tokens=True).split())
        assert whole.startswith(prompt)
        said.append(whole.removeprefix(prompt).strip())
    return said


# -- a model in a folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blip-2", "blip", "git", "vit-gpt2"])
def test_a_centre_frame_has_the_words_that_transformers_gives_it(folders, kind):
    folder, frames = folders(kind), [pictures(1, size, i) for i, size in enumerate(SIZES)]
    expected = by_hand(folder, frames)
    assert len(set(expected)) > 1  # the model sees
    assert opened(folder).caption([seen(clip) for clip in frames]) == [text or None for text in expected]


@pytest.mark.parametrize("kind", ["blip-2", "blip"])
def test_a_prompt_is_what_the_caption_goes_on_after(folders, kind):
    folder, frames, prompt = folders(kind), [pictures(1, size, i) for i, size in enumerate(SIZES)], "a photo of"
    expected = by_hand(folder, frames, prompt, prompt)
    captioner = opened(folder, prompt=prompt)
    assert captioner.caption([seen(clip) for clip in frames]) == [text or None for text in expected]


def test_git_goes_on_after_the_start_and_the_prompt_without_an_end(folders):
    folder, (picture,) = folders("git"), pictures(1)
    model, processor = (
        transformers.AutoModelForImageTextToText.from_pretrained(folder),
        transformers.AutoProcessor.from_pretrained(folder),
    )
    prompt = torch.tensor([[2, *processor.tokenizer("a photo of", add_special_tokens=False)["input_ids"]]])
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    ids = model.generate(pixel_values=pixels, input_ids=prompt, do_sample=False, max_new_tokens=TOKENS)
    expected = processor.tokenizer.decode(ids[0, 4:], skip_special_tokens=True)
    assert opened(folder, prompt="a photo of").caption([seen([picture])]) == [expected]


@pytest.mark.parametrize("kind", ["llava", "idefics3"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_chat_model_is_asked_by_its_template_with_a_picture_for_every_frame(folders, kind, count):
    folder, frames = folders(kind), [pictures(count, size, i) for i, size in enumerate(SIZES)]
    text = "user " + "<image>" * count + " what is this assistant "
    expected = by_hand(folder, frames, text, "user what is this assistant")
    assert len(set(expected)) > 1
    captioner = opened(folder, prompt="what is this", frames=count)
    assert captioner.caption([seen(clip) for clip in frames]) == [text or None for text in expected]


def test_a_chat_model_without_a_template_reads_a_token_for_every_picture(folders):
    folder, frames = folders("plain", lambda: tiny_models.llava(None)), [pictures(2)]
    expected = by_hand(folder, frames, "<image><image>\nwhat is this", "what is this")
    assert opened(folder, prompt="what is this", frames=2).caption([seen(frames[0])]) == expected


def test_git_of_videos_sees_all_frames_at_once(folders):
    folder, frames = folders("git-3", lambda: tiny_models.git(3)), [pictures(3, seed=i) for i in range(2)]
    model, processor = (
        transformers.AutoModelForImageTextToText.from_pretrained(folder),
        transformers.AutoProcessor.from_pretrained(folder),
    )
    expected = []
    for clip in frames:
        pixels = processor.image_processor(clip, return_tensors="pt")["pixel_values"][None]
        ids = model.generate(pixel_values=pixels, do_sample=False, max_new_tokens=TOKENS)
        expected.append(processor.tokenizer.decode(ids[0], skip_special_tokens=True))
    assert opened(folder, frames=3).caption([seen(clip) for clip in frames]) == expected
    with pytest.raises(SettingsError, match=r"looks at 3 pictures at a time; set captions\.frames to 3"):
        check_captions(config(folder))


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_a_clip_has_the_same_words_alone_and_among_others(folders, kind):
    captioner = opened(folders(kind))
    batch = [seen(pictures(1, size, i)) for i, size in enumerate(SIZES)]
    assert captioner.caption(batch) == [captioner.caption([one])[0] for one in batch]
    assert captioner.caption([]) == []


def test_decoding_is_greedy_whatever_the_folder_says(folders, copied):
    folder = copied("llava")
    settings = json.loads((folder / "generation_config.json").read_text())
    draws = {"do_sample": True, "temperature": 5.0, "num_beams": 3, "top_k": 5, "max_length": 20}
    (folder / "generation_config.json").write_text(json.dumps(settings | draws))
    batch = [seen(pictures(1, seed=i)) for i in range(3)]
    assert opened(folder).caption(batch) == opened(folders("llava")).caption(batch)


def test_pictures_of_any_mode_are_seen_in_colour(folders):
    (picture,) = pictures(1)
    captioner = opened(folders("blip-2"))
    grey = picture.convert("L")
    assert captioner.caption([seen([grey])]) == captioner.caption([seen([grey.convert("RGB")])])


def test_weights_of_torch_save_are_read_without_running_anything_in_them(folders, copied, tmp_path):
    for kind in ("vit-gpt2", "blip-2"):
        folder = copied(kind)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
        batch = [seen(pictures(1, seed=i)) for i in range(3)]
        assert opened(folder).caption(batch) == opened(folders(kind)).caption(batch)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(tmp_path / "was_here"), protocol=2))
    with pytest.raises(DreamFactoryError):
        check_captions(config(folder))
    assert not (tmp_path / "was_here").exists()


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_blip2_folders_from_before_there_was_a_token_for_pictures(folders, copied):
    folder = copied("blip-2")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"image_token_index": None, "image_token_id": None}))
    for file in ("processor_config.json", "preprocessor_config.json"):
        (folder / file).unlink(missing_ok=True)
    _, parts = tiny_models.blip2(token=False)
    for part in parts:
        part.save_pretrained(folder)
    assert IMAGE not in parts[1].get_vocab().values()
    batch = [seen(pictures(1, seed=i)) for i in range(3)]
    assert opened(folder).caption(batch) == opened(folders("blip-2")).caption(batch)
    prompted = {"prompt": "a photo of"}
    assert opened(folder, **prompted).caption(batch) == opened(folders("blip-2"), **prompted).caption(batch)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to")])
def test_memory_that_ran_out_costs_a_sentence(folders, error, monkeypatch):
    captioner = image_to_text.ImageToText.open(config(folders("blip-2")))
    monkeypatch.setattr(captioner.model, "generate", failing(error))
    with pytest.raises(InputError, match=r"memory ran out while captioning 2 clips .*captions\.batch_size below 2"):
        captioner.words([pictures(1), pictures(1)], [1.0, 1.0])


def test_what_transformers_cannot_do_with_a_model_costs_a_sentence_and_our_bugs_do_not(folders, monkeypatch):
    captioner = image_to_text.ImageToText.open(config(folders("blip-2"), prompt="what is this"))
    monkeypatch.setattr(captioner.model, "generate", failing(ValueError("an odd shape\nand more")))
    sentence = r"the blip-2 model in .* failed while captioning 1 clips with the prompt 'what is this': an odd shape\."
    with pytest.raises(InputError, match=sentence):
        captioner.words([pictures(1)], [1.0])
    with pytest.raises(ValueError, match="came with 2 frames, not 1") as caught:
        opened(folders("blip-2")).caption([seen(pictures(2))])
    assert not isinstance(caught.value, DreamFactoryError)


def failing(error: BaseException) -> Callable:
    def fail(*args, **kwargs):
        raise error

    return fail


def test_captions_are_kept_by_what_decides_them(folders, copied):
    folder = copied("blip-2")
    same = opened(folder).fingerprint()
    assert re.fullmatch(r"[\w-]+", same)  # a file may be called so
    assert same == opened(folder, batch_size=3, device="cpu").fingerprint()
    for change in ({"prompt": "a"}, {"max_tokens": 7}, {"dtype": "bf16"}):
        assert opened(folder, **change).fingerprint() != same
    assert len({opened(folder).fingerprint(), opened(folders("blip")).fingerprint(), same}) == 2
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    assert opened(folder).fingerprint() != same


def test_weights_are_read_only_where_there_is_something_to_caption(folders, monkeypatch):
    """Captions of an earlier run are found by the fingerprint, without the model."""
    monkeypatch.setattr(image_to_text, "open_model", failing(AssertionError("opened")))
    captioner = opened(folders("blip-2"))
    assert captioner.fingerprint()
    assert captioner.caption([]) == []
    with pytest.raises(AssertionError, match="opened"):
        captioner.caption([seen(pictures(1))])


def test_half_precision_is_asked_for_by_name(folders):
    captioner = image_to_text.ImageToText.open(config(folders("llava"), dtype="bf16"))
    assert captioner.model.dtype == torch.bfloat16
    assert len(captioner.words([pictures(1)], [1.0])) == 1


# -- folders that cannot be used ----------------------------------------------------------------------------------


def spoilt(name: str, folder: Path) -> Path:
    """The folder of a BLIP-2 with one thing wrong."""
    values = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")

    def configured(**changes: object) -> None:
        (folder / "config.json").write_text(json.dumps(values | changes))

    def weighed(state: dict[str, torch.Tensor]) -> None:
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    if name == "missing":
        return folder / "nothing"
    if name == "a file":
        return folder / "config.json"
    if name == "a cache":
        (folder / "snapshots").mkdir()
        (folder / "config.json").unlink()
    if name == "no config":
        (folder / "config.json").unlink()
    if name == "damaged config":
        (folder / "config.json").write_text("{")
    if name == "no kind":
        configured(model_type=None)
    if name == "a text model":
        configured(model_type="gpt2")
    if name == "a CLIP":
        configured(model_type="clip")
    if name == "another head":
        configured(architectures=["Blip2ForImageTextRetrieval"])
    if name == "quantized":
        configured(quantization_config={"quant_method": "awq"})
    if name == "too new":
        configured(model_type="blip-9000")
    if name == "its own code":
        configured(model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"})
    if name == "no weights":
        (folder / "model.safetensors").unlink()
    if name == "cut short":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-100])
    if name == "half downloaded":
        named = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(named))
    if name == "no words":
        for file in folder.glob("*token*"):
            file.unlink()
    if name == "no pictures":
        for file in folder.glob("*processor*"):
            file.unlink()
    if name == "damaged words":
        (folder / "tokenizer.json").write_text("{}")
    if name == "endless layers":
        configured(vision_config=values["vision_config"] | {"num_hidden_layers": 10**8})
    if name == "huge":
        configured(vision_config=values["vision_config"] | {"hidden_size": 2**16})
    if name == "weights of another":
        weighed({key: value for key, value in weights.items() if "qformer" not in key})
    if name == "another shape":
        weighed({key: value[..., :3].contiguous() if "fc1.weight" in key else value for key, value in weights.items()})
    return folder


OR_ELSE = "give the folder of a captioner such as BLIP-2, or set captions.kind to none."
EARLY = {
    "missing": f"nothing does not exist, and nothing is downloaded; {OR_ELSE}",
    "a file": f"config.json is a file, no folder; {OR_ELSE}",
    "a cache": "is a hub's cache; give the folder in its snapshots.",
    "no config": f"has no config.json, so it is no model's; {OR_ELSE}",
    "damaged config": "config.json is not valid JSON",
    "no kind": f"does not name a model_type; {OR_ELSE}",
    "a text model": f"holds a 'gpt2' model, which is none that writes captions; {OR_ELSE}",
    "a CLIP": f"holds a 'clip' model, which is none that writes captions; {OR_ELSE}",
    "another head": f"holds a Blip2ForImageTextRetrieval, which is none that writes captions; {OR_ELSE}",
    "quantized": "is quantized, which no model is here; give plain weights.",
    "too new": "holds a 'blip-9000' model, which transformers",
    "its own code": f"asks for code of its own to be run, which is never done; {OR_ELSE}",
    "no weights": "has no weights: neither *.safetensors nor pytorch_model.bin; download them again.",
    "cut short": "is cut short by",
    "half downloaded": "lacks model-00002-of-00002.safetensors, which its model.safetensors.index.json names;",
    "no words": "has no tokenizer; put the model's own tokenizer.json there.",
    "no pictures": "does not say how pictures are prepared; put the model's own preprocessor_config.json there.",
    "damaged words": "what prepares words and pictures for the model in",
    "endless layers": "says num_hidden_layers = 100,000,000, and there are",
}
LATE = {
    "huge": "has a config.json of a network with",
    "weights of another": "weights (qformer.",
    "another shape": "has another shape than config.json of",
}


@pytest.mark.parametrize("name", EARLY)
def test_a_folder_that_cannot_be_used_costs_a_sentence_before_any_video_is_opened(copied, name):
    folder = spoilt(name, copied("blip-2"))
    with pytest.raises(DreamFactoryError) as caught:
        check_captions(config(folder))
    said = str(caught.value)
    assert EARLY[name] in said
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize("name", LATE)
def test_weights_that_are_not_those_of_the_config_cost_a_sentence(copied, name):
    folder = spoilt(name, copied("blip-2"))
    with pytest.raises(DreamFactoryError) as caught:
        opened(folder).caption([seen(pictures(1))])
    assert LATE[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_older_transformers_is_told_apart_from_a_wrong_folder(folders, monkeypatch):
    from transformers.models.auto import modeling_auto

    monkeypatch.delattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
    with pytest.raises(LibraryError, match=r"needs a newer transformers than .*install --upgrade transformers"):
        check_captions(config(folders("blip-2")))


def test_no_transformers_at_all(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LibraryError, match=r"transformers .*, or set captions\.kind to none"):
        check_captions(config(folders("blip-2")))


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is here")
def test_models_of_videos_need_torchvision_and_say_so(tmp_path):
    """transformers prepares videos by it alone; pictures are prepared without."""
    if not hasattr(transformers, "AutoVideoProcessor"):
        pytest.skip("this transformers prepares videos as pictures")
    transformers.LlavaOnevisionConfig().save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "LlavaOnevisionProcessor"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "LlavaOnevisionImageProcessor"}')
    (tmp_path / "video_preprocessor_config.json").write_text('{"video_processor_type": "LlavaOnevisionVideoProcessor"}')
    save_file({f"layer.{i}": torch.zeros(1) for i in range(30)}, tmp_path / "model.safetensors")
    with pytest.raises(LibraryError, match=r"needs torchvision, .* torch==.*, which leaves torch as it is"):
        check_captions(config(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": ""}, f"captions.path is not given; {OR_ELSE}"),
        ({"dtype": "fp8"}, "captions.dtype is 'fp8'; expected one of auto, fp32, fp16, bf16."),
        ({"device": "gpu"}, "captions.device is 'gpu'; expected auto, cpu, cuda, cuda:1 or mps."),
        ({"frames": 0}, "captions.frames is 0; expected 1 to"),
        ({"max_tokens": 0}, "captions.max_tokens is 0; expected 1 to"),
        ({"batch_size": 0}, "captions.batch_size is 0; expected 1 to"),
        ({"batch_size": -1}, "captions.batch_size is -1; expected 1 to"),
        ({"frames": 4}, "looks at one picture at a time; set captions.frames to 1."),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"kind": "column", "column": " "}, "captions.column is empty"),
        ({"kind": "command"}, "captions.command is empty; give the program that prints a caption"),
        (
            {"kind": "command", "command": ("echo", "x")},
            "does not say where the picture's path goes",
        ),
        (
            {"kind": "command", "command": ("nonesuch", "{image}")},
            "nonesuch is no program that can be run",
        ),
    ],
)
def test_settings_that_cannot_be_cost_a_sentence(folders, change, said):
    with pytest.raises((SettingsError, InputError)) as caught:
        check_captions(config(folders("blip-2"), **change))
    assert said in str(caught.value)


def test_a_prompt_is_refused_by_a_model_without_words(folders):
    with pytest.raises(SettingsError, match="takes no words; leave it out"):
        check_captions(config(folders("vit-gpt2"), prompt="a photo of"))


# -- columns and commands -----------------------------------------------------------------------------------------


def test_no_captions():
    check_captions(CaptionsConfig())
    assert open_captioner(CaptionsConfig()) is None


def test_a_column_of_the_table_is_the_caption():
    captioner = opened("", kind="column", column="words")
    rows = [{"words": " a dog\n runs\x1b[0m "}, {"other": "x"}, {"words": None}, {"words": ""}, {"words": 12}]
    assert captioner.caption([told(r) for r in [*rows, {"words": float("nan")}]]) == [
        "a dog runs[0m", None, None, None, "12", None,
    ]  # fmt: skip
    assert captioner.fingerprint() != opened("", kind="column", column="other").fingerprint()
    assert not captioner.kept
    with pytest.raises(InputError, match=r"captions\.column: clip\.mp4 has \['a'\] as its 'words'; expected a text"):
        captioner.caption([told({"words": ["a"]})])


@pytest.mark.parametrize(
    "text",
    [
        "captions.command=mycaptioner --of {image} 'two words'",
        'captions.command=["mycaptioner", "--of", "{image}", "two words"]',
        "captions.command=['mycaptioner', '--of', '{image}', 'two words']",
    ],
)
def test_a_command_is_written_as_one_text_or_as_a_list(text):
    values: dict = {}
    override(values, text)
    given = build(CurationConfig, values)
    assert given.captions.command == ("mycaptioner", "--of", "{image}", "two words")
    assert build(CurationConfig, given.to_dict()) == given


@pytest.mark.parametrize("value", [5, ["a", 1], 'a "b'])
def test_a_command_that_is_none(value):
    with pytest.raises(SettingsError, match=r"captions\.command is "):
        build(CurationConfig, {"captions": {"command": value}})


def script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, "{image}", "{clip}")


def test_a_command_is_run_once_a_clip_without_a_shell(tmp_path):
    command = script("import sys; print('  saw', sys.argv[1]); print('and', sys.argv[2], '\\t')")
    captioner = opened("", kind="command", command=command)
    image, video = tmp_path / "a {clip} $HOME; b.jpg", tmp_path / "c.mp4"
    one, two = Shown(row("1"), list, image, video), Shown(row("2"), list, video, image)
    assert captioner.caption([one, two]) == [f"saw {image} and {video}", f"saw {video} and {image}"]
    assert captioner.fingerprint() != opened("", kind="command", command=(*command, "x")).fingerprint()
    assert re.fullmatch(r"[\w-]+", captioner.fingerprint())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no model\\nno luck.')", "ended with error 1 for clip: no luck."),
        ("import sys; sys.exit(3)", "ended with error 3 for clip."),
        ("print(' ')", "printed nothing for clip; expected a caption."),
        ("while True: print('a' * 1000)", "printed more than 65,536 bytes for clip; expected a caption."),
    ],
)
def test_a_command_that_gives_no_caption_costs_a_sentence_that_names_the_clip(code, said):
    with pytest.raises(InputError) as caught:
        opened("", kind="command", command=script(code)).caption([Shown(row(), list, Path("a.jpg"), Path("a.mp4"))])
    assert str(caught.value).endswith(said)


def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(tmp_path):
    started = tmp_path / "started"
    child = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    before = time.monotonic()
    with pytest.raises(InputError, match="took more than 2 seconds for clip; it was ended"):
        run(script(code), "clip", Path("a.jpg"), Path("a.mp4"), seconds=2)
    assert time.monotonic() - before < 30
    if os.name != "nt" and started.exists():  # else the machine was too slow for it
        assert is_gone(int(started.read_text()))


def is_gone(process: int) -> bool:
    """Whether a process has ended, soon."""
    for _ in range(100):
        try:
            status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
            os.kill(process, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_asks_for_a_clip_where_there_is_none():
    with pytest.raises(InputError, match=r"captions\.command asks for \{clip\}, and clip has no file of its own"):
        opened("", kind="command", command=script("")).caption([Shown(row(), list, Path("a.jpg"))])


def test_an_edited_script_is_asked_anew(tmp_path):
    say = tmp_path / "say.py"
    say.write_text("print('a dog')")
    captioner = opened("", kind="command", command=(sys.executable, str(say), "{image}"))
    before = captioner.fingerprint()
    assert captioner.fingerprint() == before
    say.write_text("print('a cat')")
    assert captioner.fingerprint() != before


@POSIX
def test_an_edited_program_is_asked_anew(tmp_path):
    program = tmp_path / "captioner"
    program.write_text("#!/bin/sh\necho a dog\n")
    program.chmod(0o755)
    captioner = opened("", kind="command", command=(str(program), "{image}"))
    before = captioner.fingerprint()
    program.write_text("#!/bin/sh\necho a cat\n")
    assert captioner.fingerprint() != before


@POSIX
def test_a_program_that_may_not_be_run(tmp_path):
    program = tmp_path / "captioner"
    program.write_text("#!/bin/sh\necho a dog\n")
    with pytest.raises(SettingsError, match=r"captioner is no program that can be run; make it executable"):
        check_captions(config("", kind="command", command=(str(program), "{image}")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert opened("", kind="command", command=(str(program), "{image}")).caption([seen([])]) == ["a dog"]
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(InputError, match=r"captioner cannot be run for clip: No such file"):
        opened("", kind="command", command=(str(program), "{image}")).caption([seen([])])


def test_nothing_heavy_is_imported_until_a_model_is_asked_for():
    """Worker processes import the package, and most of them caption nothing."""
    code = (
        "import sys, dreamfactory.curation.captions, dreamfactory.curation.categories; "
        "print([name for name in ('torch', 'transformers', 'PIL', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=with_package(), check=True)
    assert done.stdout.strip() == "[]"


def with_package() -> dict[str, str]:
    """The environment of a process that is to find the package where this one did."""
    import dreamfactory

    there_is = str(Path(there(dreamfactory.__file__)).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([there_is, os.environ.get("PYTHONPATH", "")])}


def test_pictures_smaller_than_the_model_sees_are_enlarged(folders):
    small = pictures(1, (SIDE // 4, SIDE // 2))
    assert opened(folders("blip-2")).caption([seen(small)]) == [by_hand(folders("blip-2"), [small])[0] or None]
