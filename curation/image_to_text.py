"""Pictures -> words by a model in a folder: BLIP-2 as VideoFactory has it, and what else transformers has of the kind.

Decoding is greedy, so the same pictures have the same words.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError, SettingsError, shown
from .config import CaptionsConfig
from .model_folders import ModelFolder, Wanted, as_tensor, look, open_model, open_processor, transformers_classes, using
from .words import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GREEDY = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
ASK_PICTURE = "Describe this picture in one sentence."
ASK_VIDEO = "Describe this video in one sentence."
WITHOUT = "set captions.kind to none"


@dataclass(frozen=True)
class Manner:
    """How a kind of model is asked. prompt: where captions.prompt says nothing; none: it need not be asked."""

    prompt: str = ""
    takes_words: bool = True
    starts_with: bool = False  # the caption goes on where the prompt ends


# Of those that look at one picture and hold no conversation. Others are asked by their chat template.
MANNERS = {
    "blip": Manner(starts_with=True),
    "blip-2": Manner(starts_with=True),
    "florence2": Manner("<CAPTION>"),
    "git": Manner(starts_with=True),
    "instructblip": Manner(ASK_PICTURE),
    "paligemma": Manner("caption en"),
    "pix2struct": Manner(),
    "vision-encoder-decoder": Manner(takes_words=False),
}


class ImageToText:
    """A model and what prepares its pictures and words.

    words: pictures of clips, each clip's in their order, and seconds of the clips -> a text each, "" for none.
    """

    model: Any  # of transformers
    processor: Any

    def __init__(self, folder: ModelFolder, processor: Any, model: Any, config: CaptionsConfig) -> None:
        self.folder, self.processor, self.model = folder, processor, model
        self.kind, self.most = folder.kind, config.max_tokens
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.prompt = _prompt(folder.kind, config)

    @classmethod
    def open(cls, config: CaptionsConfig) -> ImageToText:
        """Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence."""
        folder, processor = check(config)
        where = _placement(config, folder)
        captioner = cls(folder, processor, open_model(folder, **where), config)
        captioner._settle()
        return captioner

    def _settle(self) -> None:
        """What a folder may leave open."""
        model, tokenizer = self.model, self.tokenizer
        if tokenizer.pad_token_id is None:  # GPT-2's has none
            tokenizer.pad_token = tokenizer.eos_token
        if not model.config.is_encoder_decoder:  # texts are gone on with, so their ends stand in line
            tokenizer.padding_side = "left"
        if self.kind == "blip-2" and getattr(model.config, "image_token_index", None) is None:
            # Folders of before 2025 have no token in the pictures' place; which unused one it is does not matter.
            self.processor.num_query_tokens = model.config.num_query_tokens
            token = tokenizer.convert_tokens_to_ids("<image>")
            if token >= model.get_input_embeddings().num_embeddings:
                raise InputError(f"{self.folder.path} has no token that stands for pictures; download it again.")
            model.config.image_token_index = model.config.image_token_id = token

    def words(self, pictures: Sequence[Sequence[Image]], seconds: Sequence[float]) -> list[str]:
        import torch

        count = len(pictures)
        doing = f"captioning {count} clips" + (f" with the prompt {shown(self.prompt)}" if self.prompt else "")
        less = f"captions.batch_size below {count}, " if count > 1 else ""
        with using(self.folder, doing, f"set {less}captions.dtype to bf16, or captions.device to cpu"), torch.no_grad():
            inputs = self._given([[p.convert("RGB") for p in clip] for clip in pictures], seconds)
            told = as_tensor(self.model.generate(**inputs, **GREEDY, max_new_tokens=self.most), "sequences")
            return self._texts(inputs.get("input_ids"), told)

    def _given(self, pictures: list[list[Image]], seconds: Sequence[float]) -> dict[str, Any]:
        """What the model is given: tensors by name, on its device."""
        prepared = self._prepared(pictures, seconds)
        known = inspect.signature(self.model.forward).parameters
        like = next(self.model.parameters())
        inputs = {}
        for name, value in prepared.items():
            if name == "token_type_ids" and name not in known:  # every BERT tokenizer gives them
                continue
            if hasattr(value, "is_floating_point"):
                value = value.to(like.device, self.model.dtype if value.is_floating_point() else value.dtype)
            inputs[name] = value
        return inputs

    def _prepared(self, pictures: list[list[Image]], seconds: Sequence[float]) -> Mapping[str, Any]:
        processor, prompt = self.processor, self.prompt
        single = [p for clip in pictures for p in clip]
        if self.kind not in MANNERS:
            return self._asked(pictures, seconds)
        if self.kind == "git":
            return self._git(single, len(pictures))
        if not prompt:
            return processor.image_processor(images=single, return_tensors="pt")
        return processor(images=single, text=[prompt] * len(single), return_tensors="pt", padding=True)

    def _git(self, single: list[Image], clips: int) -> dict[str, Any]:
        """GIT goes on after [CLS] and the prompt, without an end; of a video it takes all pictures at once."""
        import torch

        pixels = self.processor.image_processor(images=single, return_tensors="pt")["pixel_values"]
        frames = len(single) // clips
        if getattr(self.model.config, "num_image_with_embedding", None):
            pixels = pixels.unflatten(0, (clips, frames))
        if not self.prompt:
            return {"pixel_values": pixels}
        ids = self.tokenizer(self.prompt, add_special_tokens=False)["input_ids"]
        start = self.tokenizer.cls_token_id
        ids = ids if start is None else [start, *ids]
        return {"pixel_values": pixels, "input_ids": torch.tensor([ids] * clips)}

    def _asked(self, pictures: list[list[Image]], seconds: Sequence[float]) -> Mapping[str, Any]:
        """By the model's chat template where it has one, else after a token for each picture."""
        processor, count = self.processor, len(pictures[0])
        as_video = count > 1 and _takes_video(processor)
        parts = ["video"] if as_video else ["image"] * count
        if getattr(processor, "chat_template", None):
            content = [*({"type": kind} for kind in parts), {"type": "text", "text": self.prompt}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:
            token = getattr(processor, f"{parts[0]}_token", None)
            text = f"{str(token) * len(parts)}\n{self.prompt}" if token else self.prompt
        options: dict[str, Any] = {"text": [text] * len(pictures), "padding": True, "return_tensors": "pt"}
        start = self.tokenizer.bos_token
        if start and text.startswith(start):
            options["add_special_tokens"] = False  # it is there
        if as_video:
            rates = [count / max(long, 1e-3) for long in seconds]
            told = [{"total_num_frames": count, "fps": rate, "frames_indices": list(range(count))} for rate in rates]
            return processor(videos=pictures, video_metadata=told, do_sample_frames=False, **options)
        return processor(images=pictures, **options)

    def _texts(self, ids: Tensor | None, told: Tensor) -> list[str]:
        """What was added to the prompt."""
        if ids is None:
            return self._decoded(told)
        length = ids.shape[1]
        if told.shape[1] >= length and bool((told[:, :length] == ids).all()):
            return self._decoded(told[:, length:])
        texts = self._decoded(told)
        if MANNERS.get(self.kind, Manner()).starts_with:  # with other tokens around it
            return [_after(start, text) for start, text in zip(self._decoded(ids), texts, strict=True)]
        return texts

    def _decoded(self, ids: Tensor) -> list[str]:
        return [one_line(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _after(start: str, text: str) -> str:
    return text[len(start) :].strip() if f"{text} ".startswith(f"{start} ") else text


def check(config: CaptionsConfig) -> tuple[ModelFolder, Any]:
    """The folder of a captioner and its processor, the weights unread.

    Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence.
    """
    wanted = Wanted(
        "captions.path",
        "a captioner such as BLIP-2",
        "writes captions",
        WITHOUT,
        transformers_classes("captions.kind = transformers", WITHOUT),
    )
    folder = look(config.path, wanted)
    _check_asked(config, folder)
    _placement(config, folder)
    return folder, open_processor(folder)


def _check_asked(config: CaptionsConfig, folder: ModelFolder) -> None:
    """What the settings ask of the model is what it can do."""
    manner = MANNERS.get(folder.kind)
    if manner is None:
        return
    most = folder.values.get("num_image_with_embedding") if folder.kind == "git" else None
    if config.frames != (most or 1):
        looks = f"{most} pictures" if most else "one picture"
        raise SettingsError(
            f"captions.frames is {config.frames}, and the {folder.kind} model in {folder.path} looks at {looks} at a "
            f"time; set captions.frames to {most or 1}."
        )
    if config.prompt and not manner.takes_words:
        raise SettingsError(
            f"captions.prompt is given, and the {folder.kind} model in {folder.path} takes no words; leave it out."
        )


def _prompt(kind: str, config: CaptionsConfig) -> str:
    if config.prompt:
        return config.prompt
    return MANNERS[kind].prompt if kind in MANNERS else ASK_PICTURE if config.frames == 1 else ASK_VIDEO


def _placement(config: CaptionsConfig, folder: ModelFolder) -> dict[str, Any]:
    """Device and numbers. auto: half precision on a card, of the kind that the model was made in."""
    from ..pipelines.placement import placement

    where = placement(config.device, config.dtype)
    made = str(folder.values.get("dtype") or folder.values.get("torch_dtype"))
    if config.dtype == "auto" and made == "bfloat16" and not str(where["device"]).startswith("cpu"):
        where = placement(config.device, "bf16")
    return where


def _takes_video(processor: Any) -> bool:
    return getattr(processor, "video_processor", None) is not None
