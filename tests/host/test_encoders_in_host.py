"""Text encoders, vision encoders and the codec inside a real ComfyUI, against transformers' own classes.

This file is also the script that the host's interpreter runs: `inside` loads everything there once and prints its
measurements as one JSON line, the tests below judge them. The host has no pytest, so none is imported here.
"""

import functools
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "pipelines" / "demo"

LONG = "the red circle moves left and " * 120
PROMPTS = ("", "a red circle moves left", "Ünknown wörds: zebra, sideways & 42!", LONG)
TINY_T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 3, "d_ff": 48, "vocab_size": 32128}
TINY_CLIP = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 1, "vocab_size": 49408,
    "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407,
}  # fmt: skip


# ---- inside the host -------------------------------------------------------------------------------------------------


def inside(host: str) -> dict:
    sys.path[0] = host
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import torch

    # As the host loads a pack: the repository root under a name of the host's choosing.
    spec = importlib.util.spec_from_file_location(
        "a_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["a_pack"] = pack
    spec.loader.exec_module(pack)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():  # as the host runs nodes
        parts = (t5_figures, clip_figures, demo_figures, usage_figures, refusals, vision_figures, codec_figures)
        facts = {}
        for part in parts:
            own = Path(folder, part.__name__)
            own.mkdir()
            facts[part.__name__] = part(own)
        return facts


def host_nodes() -> Any:
    """The host's own nodes: `nodes` is a name of ours as well."""
    import nodes

    return nodes


def encode(clip, text):
    """The host's own node: (n, width) and the dict beside it."""
    [[tokens, extras]] = host_nodes().CLIPTextEncode().encode(clip, text)[0]
    return tokens, extras


def difference(a, b) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


def copy_tokenizer(kind: str, folder: Path) -> None:
    import comfy.sd1_clip

    base = Path(comfy.sd1_clip.__file__).parent
    shutil.copytree(
        base / {"t5": "text_encoders/t5_tokenizer", "clip": "sd1_tokenizer"}[kind], folder, dirs_exist_ok=True
    )


def make_t5(folder: Path, **changes):
    """A random T5 of transformers, saved with the public tokenizer."""
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(**{**TINY_T5, **changes})).eval()
    for weight in model.parameters():
        weight.mul_(2)  # T5's own start is so small that mistakes would hide
    model.save_pretrained(folder)
    copy_tokenizer("t5", folder)
    return model


def make_clip(folder: Path, projected: bool = False, **changes):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = cls(CLIPTextConfig(**{**TINY_CLIP, **changes})).eval()
    for weight in model.parameters():
        weight.mul_(1 + 0.5 * torch.rand_like(weight))
    model.save_pretrained(folder)
    copy_tokenizer("clip", folder)
    return model


def t5_reference(model, folder: Path, text: str, length: int):
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    return hidden * tokens["attention_mask"][..., None]


def t5_figures(folder: Path) -> dict:
    import torch
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from safetensors.torch import load_file, save_file

    kinds = {
        "v1.0": {"feed_forward_proj": "relu"},
        "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "flan": {"feed_forward_proj": "gated-gelu", "n_positions": 512, "d_kv": 4, "layer_norm_epsilon": 1e-5},
        "buckets": {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40},
    }
    facts: dict[str, Any] = {"errors": {}}
    for kind, changes in kinds.items():
        own = folder / kind
        model = make_t5(own, **changes)
        for length in (24, None) if kind == "v1.1" else (24,):
            clip = load_text_encoder(own, max_length=length, dtype=torch.float32)
            for text in PROMPTS:
                tokens, extras = encode(clip, text)
                expected = t5_reference(model, own, text, length or 512)
                facts["errors"][f"{kind} {length} {text[:8]!r}"] = difference(tokens, expected)
        facts["extras"] = sorted(extras)
        facts["scale"] = expected.abs().max().item()

    own = folder / "v1.1"
    weights = load_file(own / "model.safetensors")
    folder_tokens = encode(load_text_encoder(own, dtype=torch.float32), PROMPTS[1])[0]

    def bare(name: str, weights: dict, metadata: dict | None = None):
        save_file(weights, folder / f"{name}.safetensors", metadata)
        return encode(load_text_encoder(folder / f"{name}.safetensors", dtype=torch.float32), PROMPTS[1])[0]

    decoder = {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(2, 2)}
    prefixed = {f"text_encoders.t5xxl.transformer.{k}": v for k, v in weights.items()}
    other = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(3)}
    untied = {("encoder.embed_tokens.weight" if k == "shared.weight" else k): v for k, v in weights.items()}
    facts["bare"] = difference(bare("bare", weights), folder_tokens)
    facts["decoder"] = difference(bare("decoder", weights | decoder), folder_tokens)
    facts["prefixed"] = difference(bare("prefixed", prefixed | other), folder_tokens)
    facts["tied"] = difference(bare("tied", untied), folder_tokens)
    facts["in_folder"] = difference(
        encode(load_text_encoder(own / "model.safetensors", dtype=torch.float32), PROMPTS[1])[0], folder_tokens
    )

    torch.save({"state_dict": weights}, folder / "bare.pt")
    facts["pickled"] = difference(
        encode(load_text_encoder(folder / "bare.pt", dtype=torch.float32), PROMPTS[1])[0], folder_tokens
    )
    shutil.copytree(own, folder / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(weights, folder / "pickled" / "pytorch_model.bin")
    facts["pickled_folder"] = difference(
        encode(load_text_encoder(folder / "pickled", dtype=torch.float32), PROMPTS[1])[0], folder_tokens
    )

    # fp8 weights with scales, as the common XXL files have them, against the same numbers written out.
    scaled, plain = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, {}
    for name, value in weights.items():
        if value.ndim == 2 and "shared" not in name and "bias" not in name:
            scale = value.abs().max() / 448
            value = (value / scale).to(torch.float8_e4m3fn)
            scaled[name.replace(".weight", ".scale_weight")] = scale
            plain[name] = value.float() * scale
        scaled[name] = value
        plain.setdefault(name, value)
    facts["scaled"] = difference(bare("scaled", scaled), bare("unscaled", plain))
    scaled.pop("scaled_fp8")
    save_file(scaled, folder / "unknown_scales.safetensors")
    facts["unknown_scales"] = refusal(lambda: load_text_encoder(folder / "unknown_scales.safetensors"))

    shards(own, folder / "shards", weights)
    facts["shards"] = difference(
        encode(load_text_encoder(folder / "shards", dtype=torch.float32), PROMPTS[1])[0], folder_tokens
    )
    (folder / "shards" / "model-00002-of-00002.safetensors").unlink()
    facts["lost_shard"] = refusal(lambda: load_text_encoder(folder / "shards"))
    facts["half"] = difference(encode(load_text_encoder(own), PROMPTS[1])[0], folder_tokens)
    facts["other_families"] = other_families(folder)
    return facts


def other_families(folder: Path) -> dict:
    """UMT5, whose every layer has its own positions, and a T5 whose folder has nothing but spiece.model."""
    import sentencepiece
    import torch
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from a_pack.pipelines.encoders import T5_LENGTH
    from transformers import UMT5Config, UMT5EncoderModel

    own = folder / "umt5"
    torch.manual_seed(0)
    model = UMT5EncoderModel(UMT5Config(**{**TINY_T5, "feed_forward_proj": "gated-gelu"})).eval()
    model.save_pretrained(own)
    copy_tokenizer("t5", own)
    tokens = encode(load_text_encoder(own, max_length=24, dtype=torch.float32), PROMPTS[1])[0]
    facts = {"umt5": difference(tokens, t5_reference(model, own, PROMPTS[1], 24))}

    own = folder / "spiece"
    model = make_t5(own, vocab_size=64)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (own / name).unlink()
    text = folder / "text.txt"
    text.write_text("\n".join(f"a red circle number {i} moves {i * 7} left and right quickly" for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(own / "spiece"), vocab_size=60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    clip = load_text_encoder(own, dtype=torch.float32)
    ids = sentencepiece.SentencePieceProcessor(model_file=str(own / "spiece.model")).encode(PROMPTS[1])
    ids = [*ids, 1]
    tokens = encode(clip, PROMPTS[1])[0]
    expected = model(input_ids=torch.tensor([ids])).last_hidden_state
    facts |= {"spiece": difference(tokens[:, : len(ids)], expected), "length": tokens.shape[1] - T5_LENGTH}
    facts["rest"] = tokens[:, len(ids) :].abs().max().item()
    return facts


def shards(source: Path, folder: Path, weights: dict) -> None:
    from safetensors.torch import save_file

    shutil.copytree(source, folder)
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({k: weights[k] for k in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def clip_reference(model, folder: Path, text: str, length: int, layer: str):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(
        text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )["input_ids"]
    out = model(input_ids=ids, output_hidden_states=True)
    if layer == "last":
        return out.last_hidden_state, ids
    inner = getattr(model, "text_model", model)
    return inner.final_layer_norm(out.hidden_states[-2]), ids


def clip_figures(folder: Path) -> dict:
    import torch
    from a_pack.nodes.bridge import text_encoder
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from safetensors.torch import load_file, save_file

    kinds = {
        "openai": {"hidden_act": "quick_gelu"},
        "openclip": {"hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-4},
        "two layers": {"num_hidden_layers": 2},
    }
    facts: dict[str, Any] = {"errors": {}}
    for kind, changes in kinds.items():
        own = folder / kind
        model = make_clip(own, **changes)
        if kind == "openclip":  # Stable Diffusion 2's tokenizer pads with token 0
            settings = json.loads((own / "tokenizer_config.json").read_text())
            (own / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "!"}))
            (own / "special_tokens_map.json").unlink()
        for layer in ("last", "penultimate"):
            clip = load_text_encoder(own, layer=layer, dtype=torch.float32)
            for text in PROMPTS:
                expected, ids = clip_reference(model, own, text, 77, layer)
                facts["errors"][f"{kind} {layer} {text[:8]!r}"] = difference(encode(clip, text)[0], expected)
        if kind == "openclip":
            facts["padding"] = clip_reference(model, own, "", 77, "last")[1][0, -1].item()
    facts["scale"] = expected.abs().max().item()

    own = folder / "openai"
    model = make_clip(own, hidden_act="quick_gelu")
    expected, _ = clip_reference(model, own, PROMPTS[1], 77, "last")
    short = encode(load_text_encoder(own, max_length=20, dtype=torch.float32), PROMPTS[1])[0]
    facts["short"] = difference(short, expected[:, :20])  # causal: later padding changes nothing

    weights = load_file(own / "model.safetensors")
    bare = {k.removeprefix("text_model."): v for k, v in weights.items()}
    variants = {
        "bare": {f"text_model.{k}": v for k, v in bare.items()},
        "unprefixed": bare,
        "in a checkpoint": {f"cond_stage_model.transformer.text_model.{k}": v for k, v in bare.items()}
        | {"model.diffusion_model.out.2.bias": torch.ones(4)},
        "whole": {f"text_model.{k}": v for k, v in bare.items()}
        | {
            "vision_model.post_layernorm.bias": torch.ones(4),
            "logit_scale": torch.ones(()),
            "text_model.embeddings.position_ids": torch.arange(77)[None],
        },
    }
    facts["files"] = {}
    for name, variant in variants.items():
        save_file(variant, folder / f"{name}.safetensors")
        clip = load_text_encoder(folder / f"{name}.safetensors", dtype=torch.float32)
        facts["files"][name] = difference(encode(clip, PROMPTS[1])[0], expected)

    own = folder / "projected"
    model = make_clip(own, projected=True, projection_dim=48)
    _, extras = encode(load_text_encoder(own, dtype=torch.float32), PROMPTS[1])
    _, ids = clip_reference(model, own, PROMPTS[1], 77, "last")
    facts["pooled"] = difference(extras["pooled_output"], model(input_ids=ids).text_embeds)
    both = whole_clip(folder / "both")
    tokens, _ = encode(load_text_encoder(folder / "both", dtype=torch.float32), PROMPTS[1])
    facts["files"]["both halves"] = difference(tokens, both.text_model(input_ids=ids).last_hidden_state)

    source = text_encoder.Source.open(folder / "bare.safetensors")
    facts["auto"] = [
        text_encoder.layer_index(source, "clip", {"hidden_size": width, "num_hidden_layers": layers}, "auto")
        for width, layers in ((768, 12), (1024, 24), (1024, 23))
    ]
    facts["bundled_pads"] = [
        text_encoder.load_tokenizer(source, "clip", {"hidden_size": width, "vocab_size": 49408}).pad
        for width in (768, 1024)
    ]
    return facts


def demo_figures(folder: Path) -> dict:
    """The demo's own encoders, as headless generation sees them."""
    import torch
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from a_pack.pipelines.encoders import TextEncoder

    facts = {}
    for name in ("text_encoder", "motion_encoder"):
        headless = TextEncoder.load(DEMO / name)
        for dtype in (None, torch.float32):
            clip = load_text_encoder(DEMO / name, dtype=dtype)
            for text in PROMPTS:
                facts[f"{name} {dtype} {text[:8]!r}"] = difference(encode(clip, text)[0], headless([text]))
    return facts


def usage_figures(folder: Path) -> dict:
    """What users do with a CLIP socket."""
    import comfy.sd
    import comfy.utils
    import folder_paths
    import torch
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from safetensors.torch import save_file

    make_clip(folder / "clip")
    make_t5(folder / "t5")
    (folder / "embeddings").mkdir()
    save_file({"emb_params": torch.randn(2, 64)}, folder / "embeddings" / "mine.safetensors")
    folder_paths.add_model_folder_path("embeddings", str(folder / "embeddings"))
    facts = {}
    for kind, target in (
        ("clip", "lora_te_text_model_encoder_layers_0_self_attn_q_proj"),
        ("t5", "lora_te1_encoder_block_0_layer_0_SelfAttention_q"),
    ):
        clip = load_text_encoder(folder / kind, max_length=24, dtype=torch.float32)
        plain, _ = encode(clip, "a red circle")
        weighted, _ = encode(clip, "a (red:1.5) circle")
        neutral, _ = encode(clip, "a (red:1.0) circle")
        width = 64 if kind == "clip" else 32
        lora = {f"{target}.lora_up.weight": torch.ones(width, 2), f"{target}.lora_down.weight": torch.ones(2, width)}
        _, tuned = comfy.sd.load_lora_for_models(None, clip, lora, 1.0, 1.0)
        facts[kind] = {
            "weighted": difference(plain, weighted),
            "neutral": difference(plain, neutral),
            "shape": list(weighted.shape),
            "lora": difference(plain, encode(tuned, "a red circle")[0]),
            "after_lora": difference(plain, encode(clip, "a red circle")[0]),
            "words": [len(section) for section in clip.tokenize("a red circle", return_word_ids=True).popitem()[1]],
            "patcher": type(clip.patcher).__name__,
        }
        if kind == "t5":
            facts[kind]["padding"] = weighted[0, 12:].abs().max().item()
        else:
            facts[kind]["embedding"] = difference(plain, encode(clip, "a embedding:mine circle")[0])
            skipped = host_nodes().CLIPSetLastLayer().set_last_layer(clip, -2)[0]
            penultimate = load_text_encoder(folder / kind, layer="penultimate", max_length=24, dtype=torch.float32)
            facts[kind]["set_last_layer"] = difference(
                encode(skipped, "a red circle")[0], encode(penultimate, "a red circle")[0]
            )
        clip.patcher.detach()
        facts[kind]["after_unload"] = difference(plain, encode(clip, "a red circle")[0])
    return facts


def refusal(action) -> str:
    """The sentence; the kind of error is part of it."""
    from a_pack.errors import NodeError
    from a_pack.model_patches import CheckpointError

    try:
        action()
    except (NodeError, CheckpointError) as error:
        return str(error)
    return "accepted"


def refusals(folder: Path) -> dict:
    import torch
    from a_pack.nodes.bridge.text_encoder import load_text_encoder
    from a_pack.nodes.bridge.vision_encoder import load_vision_encoder
    from safetensors.torch import load_file, save_file

    make_t5(folder / "t5")
    make_clip(folder / "clip")
    t5, clip = (load_file(folder / kind / "model.safetensors") for kind in ("t5", "clip"))
    layer = "encoder.block.1.layer.0.SelfAttention.q.weight"
    files = {
        "unet": {"input_blocks.0.0.weight": torch.ones(4)},
        "vae": {"encoder.down.0.block.0.conv1.weight": torch.ones(4)},
        "vision": {"vision_model.embeddings.class_embedding": torch.ones(4)},
        "bert": {"embeddings.word_embeddings.weight": torch.ones(4)},
        "mt5": t5 | {"shared.weight": torch.zeros(250112, 32)},
        "lacking": {k: v for k, v in t5.items() if k != layer},
        "misshapen": t5 | {layer: torch.ones(3, 32)},
        "foreign": t5 | {"encoder.block.0.layer.0.SelfAttention.q.lora": torch.ones(3)},
        "no bias": {k: v for k, v in t5.items() if "relative_attention_bias" not in k},
        "two": t5 | {f"clip_l.{k}": v for k, v in clip.items()},
    }
    for name, weights in files.items():
        save_file(weights, folder / f"{name}.safetensors")
    said = {name: refusal(lambda p=folder / f"{name}.safetensors": load_text_encoder(p)) for name in files}

    whole = (folder / "lacking.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "pickle.bin").write_bytes(b"pickle")
    (folder / "other.gguf").write_bytes(whole)
    (folder / "only_bin").mkdir()
    (folder / "only_bin" / "config.json").write_text('{"model_type": "t5"}')
    (folder / "only_bin" / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "empty").mkdir()
    (folder / "bert_folder").mkdir()
    (folder / "bert_folder" / "config.json").write_text('{"model_type": "bert"}')
    shutil.copy(folder / "bert.safetensors", folder / "bert_folder" / "model.safetensors")
    places = ("cut.safetensors", "pickle.bin", "other.gguf", "only_bin", "empty", "bert_folder", "nowhere.safetensors")
    said |= {name: refusal(lambda p=folder / name: load_text_encoder(p)) for name in places}

    def changed(name: str, kind: str, file: str, **changes) -> None:
        """A folder with a few lines of a JSON file changed."""
        shutil.copytree(folder / kind, folder / name)
        path = folder / name / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        said[name] = refusal(lambda: load_text_encoder(folder / name))

    changed("heads", "t5", "config.json", num_heads=2)
    changed("activation", "t5", "config.json", dense_act_fn="silu", feed_forward_proj="silu")
    changed("other model", "t5", "config.json", model_type="clip_text_model")
    changed("clip heads", "clip", "config.json", num_attention_heads=7)
    changed("damaged tokenizer", "clip", "vocab.json")
    (folder / "damaged tokenizer" / "vocab.json").write_text("{")
    said["damaged tokenizer"] = refusal(lambda: load_text_encoder(folder / "damaged tokenizer"))
    (folder / "t5" / "model.safetensors").unlink()
    small = {k: v[:100] if k == "shared.weight" else v for k, v in t5.items()}
    save_file(small, folder / "t5" / "model.safetensors")
    said["big tokenizer"] = refusal(lambda: load_text_encoder(folder / "t5"))

    said["layer"] = refusal(lambda: load_text_encoder(folder / "clip", layer="first"))
    said["t5 layer"] = refusal(lambda: load_text_encoder(DEMO / "motion_encoder", layer="penultimate"))
    said["length"] = refusal(lambda: load_text_encoder(folder / "clip", max_length=500))
    said["vision folder"] = refusal(lambda: load_text_encoder(DEMO / "image_encoder"))
    said["text as vision"] = refusal(lambda: load_vision_encoder(DEMO / "text_encoder"))
    said["file as vision"] = refusal(lambda: load_vision_encoder(folder / "vision.safetensors"))
    shutil.copytree(DEMO / "image_encoder", folder / "image")
    weights = load_file(folder / "image" / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, folder / "image" / "model.safetensors")
    said["vision lacking"] = refusal(lambda: load_vision_encoder(folder / "image"))
    return said


def whole_clip(folder: Path):
    """Both halves in one folder, as CLIP is published."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    vision = {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 8,
        "image_size": 32, "projection_dim": 40,
    }  # fmt: skip
    config = CLIPConfig(text_config=TINY_CLIP, vision_config=vision, projection_dim=40)
    model = CLIPModel(config).eval().half().float()
    model.save_pretrained(folder)
    copy_tokenizer("clip", folder)
    return model


def vision_figures(folder: Path) -> dict:
    import torch
    from a_pack.nodes.bridge.vision_encoder import load_vision_encoder
    from a_pack.pipelines.encoders import ImageEncoder
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=3, patch_size=8, image_size=32,
        projection_dim=20, hidden_act="gelu",
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config).half().float()  # the host stores half precision
    model.save_pretrained(folder / "random")
    whole_clip(folder / "whole")
    outputs = {"pooled": "image_embeds", "last": "last_hidden_state", "penultimate": "penultimate_hidden_states"}
    facts = {"exact": {}, "float": {}, "squashed": {}}
    for name, path in (
        ("random", folder / "random"),
        ("whole", folder / "whole"),
        ("demo", DEMO / "image_encoder"),
    ):
        hosted = load_vision_encoder(path)
        side = hosted.image_size
        fine = torch.rand(2, 3, side, side)
        pictures = {"exact": (fine * 255).round() / 255, "float": fine, "squashed": torch.rand(2, 3, side, side * 2)}
        for case, images in pictures.items():
            out = hosted.encode_image(images.movedim(1, -1), crop=False)
            for features, key in outputs.items():
                headless = ImageEncoder.load(path, features=features)
                expected = headless(images)
                facts[case][f"{name} {features}"] = difference(out[key], expected) / expected.abs().max().item()
    facts["by_file"] = load_vision_encoder(DEMO / "image_encoder" / "model.safetensors").image_size
    return facts


def codec_figures(folder: Path) -> dict:
    import comfy.sd
    import numpy as np
    import torch
    from a_pack.model_patches.codec import load_codec
    from a_pack.nodes.bridge.codec import codec_latent_format, load_codec_vae, rgb_factors
    from latent_preview import Latent2RGBPreviewer

    path, nodes = DEMO / "codec.safetensors", host_nodes()
    vae, codec = load_codec_vae(path), load_codec(path)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 8), scale_factor=16, mode="bicubic").clamp(0, 1)
    images = smooth.movedim(1, -1)  # (3, 96, 128, 3)
    latents = codec.encode(smooth * 2 - 1)
    decoded = ((codec.decode(latents) + 1) / 2).clamp(0, 1).movedim(1, -1)

    encoded = nodes.VAEEncode().encode(vae, images)[0]["samples"]
    tiled_latents = nodes.VAEEncodeTiled().encode(vae, images, 64, 16)[0]["samples"]
    tiled = nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, 64, 16)[0]
    facts = {
        "encode": difference(encoded, latents),
        "encode_shape": list(encoded.shape),
        "decode": difference(nodes.VAEDecode().decode(vae, {"samples": latents})[0], decoded),
        "encode_tiled": difference(tiled_latents, latents),
        "decode_tiled": difference(tiled, decoded),
        "decode_one_tile": difference(nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, 512)[0], decoded),
        "crop": list(nodes.VAEEncode().encode(vae, images[:, :91, :, :])[0]["samples"].shape),
        "alpha": difference(vae.encode(torch.cat([images, images[..., :1]], -1)), latents),
        "seams": (tiled - decoded).abs().mean().item(),
    }

    # Out of memory once: the host goes on in tiles.
    for name, given, expected in (("encode", images, latents), ("decode", latents, decoded)):
        whole = getattr(vae.first_stage_model, name)
        calls = []

        def failing(x, whole=whole, calls=calls):
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("none left")
            return whole(x)

        setattr(vae.first_stage_model, name, failing)
        facts[f"{name}_fallback"] = difference(getattr(vae, name)(given), expected)
        delattr(vae.first_stage_model, name)

    facts["kinds"] = sorted({type(m).__module__ for m in vae.first_stage_model.modules() if hasattr(m, "weight")})
    vae.patcher.detach()
    facts["after_unload"] = difference(vae.decode(latents), decoded)
    facts["state"] = sorted(vae.get_sd()) == sorted(codec.state_dict())
    facts["size"] = vae.model_size()
    facts["attributes"] = sorted(own_attributes(comfy.sd.VAE) - set(vars(vae)))
    facts["refused"] = refusal(lambda: load_codec_vae(DEMO / "unet.safetensors"))

    form = codec_latent_format(codec)
    shown = Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    preview = torch.from_numpy(np.array(shown.decode_latent_to_preview(latents))) / 255
    coarse = torch.nn.functional.avg_pool2d(decoded.movedim(-1, 1), 8)[0].movedim(0, -1)
    facts["preview"] = (preview - coarse).abs().mean().item()
    facts["preview_flat"] = (coarse - coarse.mean((0, 1))).abs().mean().item()
    facts["format"] = [form.latent_channels, form.scale_factor, form.spacial_downscale_ratio]
    facts["factors"] = [len(rgb_factors(codec)[0]), len(rgb_factors(codec)[1])]
    facts["unchanged"] = difference(form.process_out(form.process_in(latents)), latents)
    return facts


def own_attributes(cls) -> set[str]:
    """Attributes that the host's own constructor sets for every VAE."""
    import ast

    constructor: Any = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__))).body[0]
    return {
        target.attr
        for statement in constructor.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Attribute)
    }


# ---- the tests -------------------------------------------------------------------------------------------------------


@functools.cache
def measured(host: tuple[Path, str]) -> dict:
    folder, python = host
    done = subprocess.run(
        [python, __file__, str(folder)], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_t5_of_every_family_is_transformers_own(host):
    facts = measured(host)["t5_figures"]
    assert max(facts["errors"].values()) < 1e-4, facts["errors"]
    assert facts["scale"] > 1
    assert facts["extras"] == ["pooled_output"]  # no mask: the network sees the zero rows
    others = facts["other_families"]
    assert max(others["umt5"], others["spiece"]) < 1e-4
    assert others["length"] == 0  # spiece.model names no length, so both doors take the same one
    assert others["rest"] == 0


def test_the_same_t5_however_it_lies_on_disk(host):
    facts = measured(host)["t5_figures"]
    assert (
        max(
            facts[k]
            for k in ("bare", "decoder", "prefixed", "tied", "in_folder", "shards", "pickled", "pickled_folder")
        )
        == 0
    )
    assert facts["scaled"] < 1e-4
    assert "quantized in a way" in facts["unknown_scales"]
    assert "00002-of-00002.safetensors does not exist" in facts["lost_shard"]
    assert facts["half"] < 0.01 * facts["scale"]


def test_clip_text_is_transformers_own(host):
    facts = measured(host)["clip_figures"]
    assert max(facts["errors"].values()) < 1e-4, facts["errors"]
    assert facts["scale"] > 1
    assert facts["padding"] == 0  # the OpenCLIP folder's own tokenizer was asked
    assert max(facts["files"].values()) < 1e-4, facts["files"]
    assert facts["short"] < 1e-4
    assert facts["pooled"] < 1e-4


def test_auto_takes_the_layer_and_padding_of_stable_diffusion(host):
    facts = measured(host)["clip_figures"]
    assert facts["auto"] == [None, 22, None]  # CLIP-L; OpenCLIP-H; OpenCLIP-H cut to 23 layers, as diffusers has it
    assert facts["bundled_pads"] == [49407, 0]


def test_the_demo_encoders_are_those_of_headless_generation(host):
    facts = measured(host)["demo_figures"]
    assert len(facts) == 4 * len(PROMPTS)
    assert max(facts.values()) < 1e-5, facts


def test_prompt_weights_embeddings_loras_and_unloading_work(host):
    facts = measured(host)["usage_figures"]
    for kind, width in (("clip", 64), ("t5", 32)):
        own = facts[kind]
        assert own["weighted"] > 0.01
        assert own["neutral"] < 1e-6
        assert own["shape"] == [1, 24, width]
        assert own["lora"] > 0.01
        assert own["after_lora"] == own["after_unload"] == 0
        assert own["words"] == [24]
        assert own["patcher"].startswith("ModelPatcher")
    assert facts["t5"]["padding"] == 0  # weighted prompts keep their zero rows
    assert facts["clip"]["embedding"] > 0.01
    assert facts["clip"]["set_last_layer"] < 1e-6


def test_refusals_are_one_sentence(host):
    said = measured(host)["refusals"]
    expected = {
        "unet": "is a diffusion network; expected",
        "vae": "is a VAE; expected",
        "vision": "is a CLIP vision encoder; expected",
        "bert": "is a BERT-like encoder; expected",
        "mt5": "vocabulary of 250112 tokens and no tokenizer of its own",
        "lacking": "lacks 1 weights of its T5 encoder",
        "misshapen": "of shape [3, 32], its other weights ask for [32, 32]",
        "foreign": "1 weights that no T5 encoder has",
        "no bias": "lacks encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "two": "holds 2 text encoders",
        "cut.safetensors": "is cut short",
        "pickle.bin": "is no file of torch.save",
        "other.gguf": "lacks 1 weights of its T5 encoder",
        "only_bin": "pytorch_model.bin is no file of torch.save",
        "empty": "has no model.safetensors",
        "bert_folder": "holds a 'bert' model",
        "nowhere.safetensors": "does not exist",
        "heads": "num_heads = 2, its weights have 4",
        "activation": "the activation 'silu'",
        "other model": "its weights are those of a T5 encoder",
        "clip heads": "config.json",
        "damaged tokenizer": "cannot be read (Error while initializing",
        "big tokenizer": "a tokenizer of 32100 tokens, its weights have 100",
        "layer": "expected one of auto, last, penultimate",
        "t5 layer": "whose last layer is always taken",
        "length": "takes 2 to 77 tokens",
        "vision folder": "holds a 'clip_vision_model' model",
        "text as vision": "expected a CLIP vision encoder",
        "file as vision": "no vision encoder of a size ComfyUI knows",
        "vision lacking": "visual_projection.weight",
    }
    assert said.keys() == expected.keys()
    for name, part in expected.items():
        assert part in said[name], (name, said[name])
        assert "\n" not in said[name]


def test_vision_encoders_are_those_of_headless_generation(host):
    facts = measured(host)["vision_figures"]
    assert max(facts["exact"].values()) < 1e-5, facts["exact"]  # pictures of 8 bits at the encoder's own size
    # The host rounds every picture to 8 bits, also after resizing.
    assert max(facts["float"].values()) < 0.02, facts["float"]
    assert max(facts["squashed"].values()) < 0.02, facts["squashed"]
    assert facts["by_file"] == 64


def test_the_codec_is_a_vae_to_every_core_node(host):
    facts = measured(host)["codec_figures"]
    assert max(facts["encode"], facts["decode"], facts["decode_one_tile"], facts["alpha"]) < 1e-5
    assert facts["encode_shape"] == [3, 12, 12, 16]
    assert facts["crop"] == [3, 12, 11, 16]
    assert facts["encode_tiled"] < 1e-5  # one linear map a patch: tiles have no seams
    assert facts["decode_tiled"] < 0.15  # the decoder sees zeros past a tile's border; the host blends over it
    assert facts["seams"] < 0.01
    assert max(facts["encode_fallback"], facts["decode_fallback"], facts["after_unload"]) < 1e-5
    assert facts["state"]
    assert facts["kinds"] == ["comfy.ops"]
    assert facts["size"] < 2_000_000
    assert facts["attributes"] == []  # nothing that the host's own constructor sets is missing
    assert "is no codec of ours" in facts["refused"]


def test_previews_show_the_picture(host):
    facts = measured(host)["codec_figures"]
    assert facts["format"] == [12, 1.0, 8]
    assert facts["factors"] == [12, 3]
    assert facts["unchanged"] == 0
    assert facts["preview"] < 0.05 < 0.2 < facts["preview_flat"]  # of 1; flat: how far one colour would be


if __name__ == "__main__":
    print(json.dumps(inside(sys.argv[1])))
