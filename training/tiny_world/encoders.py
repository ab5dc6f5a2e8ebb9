"""Tiny text and image encoders of standard architectures, with a vocabulary of their own.

CLIPTextModel, T5EncoderModel and CLIPVisionModelWithProjection at width 64: tens of kilobytes where the standard
vocabularies alone cost megabytes. They start at random and are trained with the network.
"""

from __future__ import annotations

import torch

from ...pipelines.encoders import ImageEncoder, TextEncoder
from .world import vocabulary

WIDTH, LAYERS, HEADS = 64, 2, 4
TEXT_LENGTH, MOTION_LENGTH = 16, 16
BOTH_LENGTH = 32  # tokens of text and motion captions as one


def _tokenizer(start: str | None, end: str, pad: str, length: int):
    """Whole words, lower case; unknown words become one token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [pad, end, "<unk>", *([start] if start else [])]
    special = list(dict.fromkeys(special))
    ids = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = f"{start} $A {end}" if start else f"$A {end}"
    around = [(token, ids[token]) for token in (start, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        unk_token="<unk>",
        model_max_length=length,
    )


def text_encoder(seed: int, length: int = TEXT_LENGTH) -> TextEncoder:
    """CLIP text, width 64, of so many tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _tokenizer(start, end, end, length)
    ids = tokenizer.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=length,
        projection_dim=WIDTH,
        bos_token_id=ids[start],
        eos_token_id=ids[end],
        pad_token_id=ids[end],
    )
    torch.manual_seed(seed)
    return TextEncoder(CLIPTextModel(config), tokenizer, length)


def motion_encoder(seed: int) -> TextEncoder:
    """T5, width 64."""
    from transformers import T5Config, T5EncoderModel

    end, pad = "</s>", "<pad>"
    tokenizer = _tokenizer(None, end, pad, MOTION_LENGTH)
    ids = tokenizer.get_vocab()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=WIDTH * 2,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=ids[pad],
        eos_token_id=ids[end],
        decoder_start_token_id=ids[pad],  # pyright: ignore[reportCallIssue]  # a setting of every model's config
        tie_word_embeddings=False,  # pyright: ignore[reportCallIssue]  # idem
    )
    torch.manual_seed(seed + 1)
    return TextEncoder(T5EncoderModel(config), tokenizer, MOTION_LENGTH)


def image_encoder(seed: int) -> ImageEncoder:
    """CLIP vision, width 64, on 64x64 pictures in patches of 16."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=64,
        patch_size=16,
        projection_dim=WIDTH,
    )
    torch.manual_seed(seed + 2)
    return ImageEncoder(CLIPVisionModelWithProjection(config))
