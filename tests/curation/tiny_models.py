"""Captioners and CLIPs of some thousand random weights, in folders as published ones are, with a made-up vocabulary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..random_weights import randomise

transformers: Any = pytest.importorskip("transformers", reason="models are transformers' own")

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")  # 0 to 3; <image> comes last
TEXT = (
    "a photo of red blue green square circle dog cat in on left right moves what is this describe picture video one "
    "sentence user assistant frame about music sports news"
)
VOCABULARY = (*SPECIAL, *TEXT.split())
IMAGE = len(VOCABULARY)
SIDE = 28
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**LAYERS, "image_size": SIDE, "patch_size": 14}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
Made = tuple[Any, list[Any]]  # a network, and what prepares its pictures and words


def pictures(count: int, size: tuple[int, int] = (40, 30), seed: int = 0) -> list[Image.Image]:
    noise = np.random.default_rng(seed)
    return [Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(count)]


def tokenizer(ends: bool = False, image: bool = True, **special: Any) -> Any:
    """ends: a text has its last token too, as BERT's do. image: there is a token that stands for pictures."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    options = {"model_max_length": 64, "model_input_names": ["input_ids", "attention_mask"], **names, **special}
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **options)
    if image:
        words.add_tokens(["<image>"], special_tokens=True)
    return words


def squashes(kind: str = "Blip") -> Any:
    """An image processor that makes squares of whole pictures."""
    return getattr(transformers, f"{kind}ImageProcessor")(size={"height": SIDE, "width": SIDE})


def crops() -> Any:
    """CLIP's image processor."""
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def blip2(token: bool = True) -> Made:
    """token: one that stands for the pictures, which folders of before 2025 lack."""
    words = tokenizer(image=token)
    opt = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2}
    opt |= {"num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": len(words)}
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**LAYERS, "vocab_size": 30, "encoder_hidden_size": 16},
        text_config={"model_type": "opt", **opt, **ENDS},
        num_query_tokens=4,
        image_token_index=IMAGE if token else None,
    )
    whole = [transformers.Blip2Processor(squashes(), words, num_query_tokens=4)] if token else [squashes(), words]
    return transformers.Blip2ForConditionalGeneration(config), whole


def blip() -> Made:
    words = tokenizer(ends=True, cls_token="<s>", sep_token="</s>")
    text = {**LAYERS, **ENDS, "sep_token_id": 3, "vocab_size": len(words), "max_position_embeddings": 64}
    config = transformers.BlipConfig(vision_config=VISION, text_config={**text, "encoder_hidden_size": 16})
    return transformers.BlipForConditionalGeneration(config), [transformers.BlipProcessor(squashes(), words)]


def git(frames: int | None = None) -> Made:
    """frames: of a video, if it takes one."""
    words = tokenizer(ends=True, cls_token="<s>", sep_token="</s>")
    text = {**LAYERS, **ENDS, "vocab_size": len(words), "max_position_embeddings": 64}
    config = transformers.GitConfig(vision_config=VISION, num_image_with_embedding=frames, **text)
    return transformers.GitForCausalLM(config), [transformers.GitProcessor(crops(), words)]


def vit_gpt2() -> Made:
    """Of two models; GPT-2's tokenizer has nothing to fill lines up with."""
    words = tokenizer(pad_token=None)
    gpt2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(words)}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VISION),
        transformers.GPT2Config(**gpt2, bos_token_id=2, eos_token_id=3),
        decoder_start_token_id=2,
        pad_token_id=3,
        eos_token_id=3,
    )
    return transformers.VisionEncoderDecoderModel(config), [squashes("ViT"), words]


def llama(words: Any) -> dict[str, Any]:
    sizes = {**LAYERS, "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": len(words)}
    return {"model_type": "llama", **sizes, **ENDS}


def llava(chat: str | None = CHAT) -> Made:
    words = tokenizer()
    config = transformers.LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model", "projection_dim": 16},
        text_config=llama(words),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(crops(), words, chat_template=chat, **options)
    return transformers.LlavaForConditionalGeneration(config), [processor]


def idefics3() -> Made:
    """Of the family of SmolVLM: larger pictures take more tokens, so that lines differ in length."""
    words = tokenizer()
    places = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words.add_tokens(["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places], special_tokens=True)
    config = transformers.Idefics3Config(
        vision_config=VISION, text_config=llama(words), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    tiles = transformers.Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(tiles, words, image_seq_len=1, chat_template=CHAT)
    return transformers.Idefics3ForConditionalGeneration(config), [processor]


def clip() -> Made:
    words = tokenizer(ends=True)
    text = {**LAYERS, **ENDS, "vocab_size": len(words), "max_position_embeddings": 16, "projection_dim": 16}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16
    )
    return transformers.CLIPModel(config), [transformers.CLIPProcessor(crops(), words)]


def siglip() -> Made:
    words = tokenizer(ends=True, model_input_names=["input_ids"])
    text = {**LAYERS, **ENDS, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return transformers.SiglipModel(config), [transformers.SiglipProcessor(squashes("Siglip"), words)]


CAPTIONERS: dict[str, Callable[[], Made]] = {
    "blip-2": blip2, "blip": blip, "git": git, "vit-gpt2": vit_gpt2, "llava": llava, "idefics3": idefics3,
}  # fmt: skip


def save(folder: Path, make: Callable[[], Made], loud: float = 3.0) -> Path:
    """A folder of a network with random weights. loud: of those between pictures and words, so that they are heard."""
    try:
        network, processors = make()
    except TypeError as error:
        if "was expected" not in str(error):
            raise
        pytest.skip("this transformers takes no made-up tokenizer for models of this kind")
    torch.manual_seed(3)
    randomise(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and ("project" in name or "cross" in name):
                weight.mul_(loud)
    for part in (network, *processors):
        part.save_pretrained(folder)
    return folder
