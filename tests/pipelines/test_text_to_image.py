"""First frames out of words: our pictures are those of diffusers' own pipelines, from every form of the same weights.

Every weight is random, and small networks stand for Stable Diffusion's; nothing is downloaded.
"""

import json
import logging
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreamfactory.errors import InputError
from dreamfactory.model_patches import CheckpointError, UNetConfig, VideoUNet, save_unet
from dreamfactory.pipelines.encoders import TextEncoder
from dreamfactory.pipelines.stable_diffusion import StableDiffusion
from dreamfactory.pipelines.text_to_image import AnyPipeline, check_text_to_image, open_text_to_image
from dreamfactory.pipelines.turns import Turns
from dreamfactory.training.tiny_world.encoders import motion_encoder

from ..random_weights import randomise

TOLERANCE = 1e-4  # of a picture in [0, 1]
LENGTH = 16  # tokens of a text
SIZE = (16, 24)
TEXT, NEGATIVE = ["a red bird", "two grey stones by the sea"], ["blue", "a dull picture"]
SEEDS, STEPS, GUIDANCE = [3, 2**40], 4, 7.5

logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of libraries about each other
]


# -- small models of standard classes -------------------------------------------------------------------------


def tokenizer(folder, pad="<|endoftext|>"):
    """CLIP's tokenizer with letters for words: CLIP's own files, where "!" is token 0 and the end comes last."""
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    words = ["!", "th", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "pad_token": pad}
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ends))
    return AutoTokenizer.from_pretrained(folder)


def clip(words, width, layers, activation, model: Any = CLIPTextModel, projection=32):
    return randomise(
        model(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=width,
                intermediate_size=64,
                num_hidden_layers=layers,
                num_attention_heads=max(1, width // 64),
                max_position_embeddings=LENGTH,
                hidden_act=activation,
                projection_dim=projection,
                pad_token_id=words.pad_token_id,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
            )
        )
    )


def vae():
    blocks: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return randomise(AutoencoderKL(**blocks, layers_per_block=1, latent_channels=4, scaling_factor=0.18215))


def unet(**config):
    return randomise(
        UNet2DConditionModel(
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            **config,
        )
    )


def ddim(**config) -> Any:
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**usual | {"set_alpha_to_one": False, "steps_offset": 1} | config)


def sd(words, text, network, scheduler):
    nothing: Any = None  # its types ask for all parts
    pipeline = StableDiffusionPipeline(
        vae(), text, words, network, scheduler, nothing, nothing, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


SD1_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (32, 64)}
SD2_UNET = {
    "sample_size": [96, 112], "cross_attention_dim": 128, "attention_head_dim": (1, 2),
    "block_out_channels": (64, 128), "use_linear_projection": True,
}  # fmt: skip


def sd1(folder):
    """As SD 1.5: noise prediction, 8 heads, CLIP ViT-L's width."""
    words = tokenizer(folder / "words")
    return sd(words, clip(words, 768, 2, "quick_gelu"), unet(**SD1_UNET), ddim())


def sd2(folder):
    """As SD 2.1: v-prediction, heads of 64, OpenCLIP and its padding."""
    words = tokenizer(folder / "words", pad="!")
    return sd(words, clip(words, 128, 2, "gelu"), unet(**SD2_UNET), ddim(prediction_type="v_prediction"))


def sdxl(folder):
    words = tokenizer(folder / "words")
    text = clip(words, 64, 2, "quick_gelu")
    pooled = clip(words, 64, 2, "gelu", CLIPTextModelWithProjection)
    network = unet(
        sample_size=64, cross_attention_dim=128, attention_head_dim=(1, 2), block_out_channels=(64, 128),
        use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(vae(), text, pooled, words, words, network, ddim(), add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def model(request, tmp_path_factory):
    """A pipeline of diffusers', and the folder it was saved into."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = {"sd1": sd1, "sd2": sd2}[request.param](folder)
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return pipeline, folder / "model"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """SD 1.5 as `model` and as `model.safetensors`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("first")
    pipeline = sd1(folder)
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    save_file(single_file(pipeline), folder / "model.safetensors")
    return folder


@pytest.fixture
def spoilt(first, tmp_path):
    """A copy of the folder to do something to."""
    return shutil.copytree(first / "model", tmp_path / "model")


def theirs(pipeline, **more):
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pipeline(
        TEXT, negative_prompt=NEGATIVE, height=SIZE[0], width=SIZE[1], num_inference_steps=STEPS,
        guidance_scale=GUIDANCE, generator=generators, output_type="pt", **more,
    ).images  # fmt: skip


def ours(drawer, text=TEXT, negative=NEGATIVE, seeds=SEEDS, **more):
    settings = {"steps": STEPS, "guidance_scale": GUIDANCE} | more
    return drawer.draw(list(text), list(negative), list(seeds), SIZE, **settings)


def difference(a, b):
    assert a.shape == b.shape == (len(a), 3, *SIZE)
    assert a.dtype == torch.float32
    assert b.min() >= 0
    assert b.max() <= 1
    assert b.std() > 0.1  # a picture, and not all of it at the ends of the range
    assert ((b > 0) & (b < 1)).float().mean() > 0.3
    return float((a - b).abs().max())


# -- the same weights in LDM's names --------------------------------------------------------------------------


def ldm_vae(state, levels=2):
    """AutoencoderKL's names as CompVis wrote them; attention was made of 1x1 convolutions."""
    names = [
        *((f"decoder.up_blocks.{n}.", f"decoder.up.{levels - 1 - n}.") for n in range(levels)),
        *((f"encoder.down_blocks.{n}.", f"encoder.down.{n}.") for n in range(levels)),
        (".mid_block.resnets.0.", ".mid.block_1."),
        (".mid_block.resnets.1.", ".mid.block_2."),
        (".mid_block.attentions.0.", ".mid.attn_1."),
        (".resnets.", ".block."),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        (".conv_shortcut.", ".nin_shortcut."),
        (".conv_norm_out.", ".norm_out."),
        (".group_norm.", ".norm."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        (".to_out.0.", ".proj_out."),
    ]
    renamed = {}
    for key, weight in state.items():
        for theirs, ldm in names:
            key = key.replace(theirs, ldm)
        renamed[f"first_stage_model.{key}"] = (
            weight[..., None, None] if ".attn_1." in key and weight.ndim == 2 else weight
        )
    return renamed


def ldm_clip(state):
    return {f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}


def open_clip(state):
    """transformers' names -> OpenCLIP's, with what SD 2.x does not read: another layer, projection, temperature."""
    names = [
        ("encoder.layers.", "transformer.resblocks."),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("self_attn", "attn"),
        ("final_layer_norm", "ln_final"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.token_embedding", "token_embedding"),
    ]
    renamed, projections = {}, {}
    for key, weight in state.items():
        key = key.removeprefix("text_model.")
        for theirs, original in names:
            key = key.replace(theirs, original)
        layer, _, which = key.rpartition("_proj.")
        if layer[-2:] in (".q", ".k", ".v"):
            projections.setdefault((layer[:-2], which), {})[layer[-1]] = weight
        else:
            renamed[key] = weight
    for (layer, which), parts in projections.items():
        renamed[f"{layer}.in_proj_{which}"] = torch.cat([parts[name] for name in "qkv"])
    last = [key for key in renamed if key.startswith("transformer.resblocks.1.")]
    renamed |= {key.replace("resblocks.1.", "resblocks.2."): torch.randn_like(renamed[key]) for key in last}
    renamed |= {"text_projection": torch.randn(128, 128), "logit_scale": torch.tensor(4.6)}
    return {f"cond_stage_model.model.{k}": v for k, v in renamed.items()}


def single_file(pipeline):
    second = pipeline.unet.config.cross_attention_dim != 768
    state = {f"model.diffusion_model.{k}": v for k, v in _ldm_unet(pipeline.unet).items()}
    state |= ldm_vae(pipeline.vae.state_dict())
    state |= (open_clip if second else ldm_clip)(pipeline.text_encoder.state_dict())
    if second:
        state["v_pred"] = torch.tensor([])  # fine-tunes' mark; the released network is told by its full-size weights
    else:
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
        state["model_ema.decay"] = torch.tensor(0.9999)
    return {k: v.clone().contiguous() for k, v in state.items()}


def _ldm_unet(network):
    from dreamfactory.model_patches.checkpoints.converters import sd as converter

    return converter.convert_diffusers(network.state_dict())[1]


# -- Stable Diffusion, by our own network ---------------------------------------------------------------------


def test_a_folder_draws_what_diffusers_draws(model):
    pipeline, folder = model
    check_text_to_image(folder)
    drawer = open_text_to_image(folder)
    assert isinstance(drawer, StableDiffusion)
    assert difference(ours(drawer), theirs(pipeline)) <= TOLERANCE
    assert drawer.unit == 2
    assert drawer.size == ((128, 128) if pipeline.unet.config.sample_size == 64 else (192, 224))
    assert (drawer.steps, drawer.guidance_scale, drawer.notes) == (30, 7.5, [])


def test_a_file_draws_what_diffusers_draws(model, tmp_path):
    """LDM's names, and for SD 2.x OpenCLIP's, with weights around that have no use."""
    pipeline, folder = model
    path = tmp_path / "model.safetensors"
    save_file(single_file(pipeline), path)
    check_text_to_image(path)
    drawer = open_text_to_image(path, tokenizer=folder / "tokenizer")
    assert difference(ours(drawer), theirs(pipeline)) <= TOLERANCE
    second = pipeline.unet.config.cross_attention_dim != 768
    assert drawer.size == ((768, 768) if second else (512, 512))
    assert drawer.unit == 2
    assert ("768-v" if second else "SD 1.x") in drawer.notes[0]
    assert not any("stage_model" in note or "override" in note for note in drawer.notes)


@pytest.mark.parametrize("model", ["sd2"], indirect=True)
def test_a_file_borrows_a_tokenizer_and_pads_its_own_way(model, tmp_path):
    """The other encoder's tokenizer pads with the end of text, SD 2.x with token 0."""
    pipeline, folder = model
    path = tmp_path / "model.safetensors"
    save_file(single_file(pipeline), path)
    tokenizer(tmp_path / "words")
    like = TextEncoder.load(folder / "text_encoder", tokenizer=tmp_path / "words")
    assert difference(ours(open_text_to_image(path, like=like)), theirs(pipeline)) <= TOLERANCE
    assert like.tokenizer.pad_token == "<|endoftext|>"


def test_an_encoder_saved_from_diffusers_is_read_to_its_last_layer(tmp_path):
    """Without its projection an OpenCLIP encoder is the one that diffusers cut."""
    pipeline = sd2(tmp_path)
    state = {k: v for k, v in single_file(pipeline).items() if "resblocks.2." not in k and "text_proj" not in k}
    save_file(state, tmp_path / "model.safetensors")
    drawer = open_text_to_image(tmp_path / "model.safetensors", tokenizer=tmp_path / "words")
    expected = pipeline.encode_prompt(TEXT, "cpu", 1, False)[0]
    assert isinstance(drawer, StableDiffusion)
    drawer.text.tokenizer.pad_token = "!"
    assert torch.allclose(drawer.text(TEXT), expected, atol=1e-5)


@pytest.mark.parametrize("model", ["sd2"], indirect=True)
def test_zero_terminal_noise_comes_from_the_folder(model, tmp_path):
    pipeline, folder = model
    folder = shutil.copytree(folder, tmp_path / "model")
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = ddim(**settings, set_alpha_to_one=True)
    scheduler.save_pretrained(folder / "scheduler")
    peer = StableDiffusionPipeline(**{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    peer.set_progress_bar_config(disable=True)
    assert difference(ours(open_text_to_image(folder)), theirs(peer)) <= TOLERANCE


def test_guidance_up_to_one_is_none(first):
    drawer = open_text_to_image(first / "model")
    plain = ours(drawer, guidance_scale=1.0)
    assert torch.equal(ours(drawer, guidance_scale=0.0), plain)
    assert torch.equal(ours(drawer, negative=["", ""], guidance_scale=1.0), plain)


def test_what_a_folder_holds_besides_is_told(spoilt):
    edit(
        spoilt / "model_index.json", scheduler=["diffusers", "PNDMScheduler"], safety_checker=["stable_diffusion", "X"]
    )
    notes = open_text_to_image(spoilt).notes
    assert any("PNDMScheduler is left aside" in note for note in notes)
    assert any("safety_checker left aside" in note for note in notes)


# -- other pipelines, by diffusers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("xl")
    pipeline = sdxl(folder)
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return pipeline, folder / "model"


def test_sdxl_draws_through_diffusers(xl):
    pipeline, folder = xl
    check_text_to_image(folder)
    drawer = open_text_to_image(folder)
    assert isinstance(drawer, AnyPipeline)
    assert difference(ours(drawer), theirs(pipeline)) <= 1e-5
    assert (drawer.unit, drawer.size, drawer.steps, drawer.guidance_scale) == (8, (128, 128), 50, 5.0)
    assert drawer.notes == []


def test_no_negative_prompt_is_none_for_sdxl(xl):
    """Which looks at zeros then, not at an empty text; what stands beside it in the batch changes nothing."""
    pipeline, folder = xl
    generator = torch.Generator().manual_seed(SEEDS[1])
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
    peer = pipeline(TEXT[1], height=SIZE[0], width=SIZE[1], generator=generator, **settings).images
    drawn = ours(open_text_to_image(folder), negative=[NEGATIVE[0], ""])
    assert difference(drawn[1:], peer) <= 1e-5
    assert (drawn[1:] - theirs(pipeline)[1:]).abs().max() > 1e-3


def test_a_pipeline_of_the_older_form_draws_as_well(tmp_path):
    """PixArt: a T5, a transformer, and a callback by its older name."""
    encoder = motion_encoder(0).eval()
    network = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=1, sample_size=32,
        cross_attention_dim=32, caption_channels=encoder.width, norm_type="ada_norm_single",
    )  # fmt: skip
    pipeline = PixArtSigmaPipeline(encoder.tokenizer, encoder.model, vae(), randomise(network), ddim())
    pipeline.save_pretrained(tmp_path, safe_serialization=True)
    pipeline.set_progress_bar_config(disable=True)
    drawer, steps = open_text_to_image(tmp_path), []
    drawn = ours(drawer, on_step=lambda *step: steps.append(step))
    assert difference(drawn, theirs(pipeline)) <= TOLERANCE
    assert steps == [(n, 2 * STEPS) for n in range(1, 2 * STEPS + 1)]
    assert (drawer.unit, drawer.size, drawer.steps, drawer.guidance_scale) == (8, (64, 64), 20, 4.5)
    assert drawer.ignores == {}
    assert [drawer.is_cut("a red circle " * times) for times in (1, 200)] == [False, True]


def test_half_precision_variants_are_read(tmp_path):
    pipeline = sd1(tmp_path)
    pipeline.save_pretrained(tmp_path / "model", safe_serialization=True, variant="fp16")
    drawer = open_text_to_image(tmp_path / "model")
    assert isinstance(drawer, AnyPipeline)
    assert difference(ours(drawer), theirs(pipeline)) <= TOLERANCE


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model_index.json", {"scheduler": ["diffusers", "LCMScheduler"]}),
        ("unet/config.json", {"flip_sin_to_cos": False}),
        ("unet/config.json", {"transformer_layers_per_block": 2}),
        ("unet/config.json", {"layers_per_block": [1, 2]}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_what_our_network_does_not_compute_is_left_to_diffusers(spoilt, file, change, monkeypatch):
    read = []
    monkeypatch.setattr("dreamfactory.pipelines.text_to_image.AnyPipeline", lambda *given: read.append(given))
    edit(spoilt / file, **change)
    open_text_to_image(spoilt)
    assert len(read) == 1


# -- any of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["ours", "xl", "file"])
def test_pickled_weights_draw_the_same(first, xl, tmp_path, which):
    """As the first releases came: .bin in a folder, or one .ckpt beside its trainer's state."""
    source = {"ours": first / "model", "xl": xl[1], "file": first / "model.safetensors"}[which]
    words = tokenizer_of(first) if which == "file" else None
    if which == "file":
        target = tmp_path / "model.ckpt"
        torch.save({"epoch": 1, "global_step": 2, "state_dict": load_file(source)}, target)
    else:
        target = shutil.copytree(source, tmp_path / "model")
        for file in sorted(target.rglob("*.safetensors")):
            name = "pytorch_model.bin" if file.name == "model.safetensors" else f"{file.stem}.bin"
            torch.save(load_file(file), file.with_name(name))
            file.unlink()
    check_text_to_image(target)
    drawn = [ours(open_text_to_image(place, tokenizer=words)) for place in (source, target)]
    assert torch.equal(*drawn)


def tokenizer_of(first):
    return first / "model" / "tokenizer"


@pytest.mark.parametrize("which", ["ours", "xl"])
def test_a_picture_depends_on_its_own_words_and_seed(first, xl, which):
    drawer = open_text_to_image(first / "model" if which == "ours" else xl[1])
    steps = []
    both = ours(drawer, on_step=lambda *step: steps.append(step))
    alone = ours(drawer, TEXT[1:], NEGATIVE[1:], SEEDS[1:])
    assert torch.allclose(alone, both[1:], atol=1e-5)
    assert torch.equal(alone, ours(drawer, TEXT[1:], NEGATIVE[1:], SEEDS[1:]))
    assert (ours(drawer, TEXT[1:], NEGATIVE[1:], [4]) - alone).abs().max() > 1e-2
    total = STEPS if which == "ours" else 2 * STEPS
    assert steps == [(n, total) for n in range(1, total + 1)]


class Card:
    """A card with room for one byte, or so many: what is on it is noted, and nothing moves."""

    def __init__(self, memory=1):
        self.turns, self.place, self.seen = Turns("cuda", memory=memory), {}, []

    @property
    def on_it(self):
        return {name for name, device in self.place.items() if device == "cuda"}

    def put(self, monkeypatch, name, network, method="forward"):
        compute = getattr(network, method)

        def computed(*args, **kwargs):
            self.seen.append((name, self.on_it))
            return compute(*args, **kwargs)

        monkeypatch.setattr(network, "to", lambda device: self.place.update({name: torch.device(device).type}))
        monkeypatch.setattr(network, method, computed)


def test_networks_take_turns(first, monkeypatch):
    card = Card()
    drawer = open_text_to_image(first / "model", turns=card.turns)
    for name, method in (("text", "forward"), ("unet", "forward"), ("codec", "decode")):
        card.put(monkeypatch, name, getattr(drawer, name), method)
    ours(drawer)
    assert card.seen == [("text", {"text"})] * 2 + [("unet", {"unet"})] * STEPS + [("codec", {"codec"})]
    card.turns.over()
    assert card.on_it == set()


def test_a_pipeline_too_large_for_the_card_is_offloaded_by_diffusers(xl, monkeypatch):
    drawer, asked, freed = open_text_to_image(xl[1], turns=Turns("cuda", memory=1)), [], []
    assert isinstance(drawer, AnyPipeline)
    monkeypatch.setattr(drawer.pipeline, "enable_model_cpu_offload", lambda device: asked.append(device))
    monkeypatch.setattr(drawer.pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    for network in drawer.networks:
        monkeypatch.setattr(network, "to", lambda device: pytest.fail("the whole of it does not fit"))
    drawn = ours(drawer)
    assert torch.equal(ours(drawer), drawn)
    assert asked == [torch.device("cuda")]  # once
    del freed[:]
    with pytest.raises(ZeroDivisionError):
        ours(drawer, on_step=lambda done, total: 1 / 0)
    assert freed == [True]


@pytest.mark.parametrize("which", ["ours", "xl"])
def test_the_device_is_free_after_a_cancelled_picture(first, xl, which, monkeypatch):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        raise Cancelled

    card = Card(memory=1 if which == "ours" else 2**40)
    drawer: Any = open_text_to_image(first / "model" if which == "ours" else xl[1], turns=card.turns)
    network = drawer.unet if which == "ours" else drawer.pipeline.unet
    card.put(monkeypatch, "unet", network)
    for other in (drawer.text, drawer.codec) if which == "ours" else drawer.networks:
        if other is not network:
            monkeypatch.setattr(other, "to", lambda device: None)
    with pytest.raises(Cancelled):
        ours(drawer, on_step=cancel)
    assert card.seen == [("unet", {"unet"})]
    assert card.on_it == set()


def test_half_precision_keeps_the_vae_whole(first):
    """bfloat16, which a CPU computes with; float16's range is what SD's VAEs do not fit in."""
    drawer = open_text_to_image(first / "model", dtype=torch.bfloat16)
    assert ours(drawer).dtype == torch.float32
    drawer = open_text_to_image(
        first / "model.safetensors", tokenizer=first / "model" / "tokenizer", dtype=torch.float16
    )
    assert isinstance(drawer, StableDiffusion)
    kinds = [next(part.parameters()).dtype for part in (drawer.text, drawer.unet, drawer.codec)]
    assert kinds == [torch.float16, torch.float16, torch.float32]


# -- what cannot be used --------------------------------------------------------------------------------------


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_sentence(error) -> bool:
    text = str(error)
    return text.endswith(".") and "\n" not in text and ". " not in text and len(text) < 600


def changed(first, tmp_path, change):
    """The single file with its weights changed."""
    state = load_file(first / "model.safetensors")
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(state).items()}, path)
    return path


def named(tmp_path, *names):
    """A file of empty weights."""
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    return path


def index(tmp_path, kind, **parts):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind, **parts}))
    return tmp_path


UNET = "model.diffusion_model."
FILES = {
    "inpainting": (
        lambda first, tmp: changed(
            first, tmp, lambda s: {k: v.repeat(1, 3, 1, 1)[:, :9] if k.endswith("input_blocks.0.0.weight") else v
                                   for k, v in s.items()}
        ),
        "takes 9 channels and answers 4, an inpainting",
    ),
    "bare": (
        lambda first, tmp: changed(first, tmp, lambda s: {k: v for k, v in s.items() if k.startswith(UNET)}),
        "UNet without VAE and text encoder; give a whole checkpoint",
    ),
    "no text encoder": (
        lambda first, tmp: changed(first, tmp, lambda s: {k: v for k, v in s.items() if "cond_stage" not in k}),
        "UNet without text encoder; give a whole checkpoint",
    ),
    "sdxl": (
        lambda first, tmp: named(
            tmp, f"{UNET}label_emb.0.0.weight", f"{UNET}input_blocks.4.1.transformer_blocks.1.norm1.weight",
            "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.ln_final.weight",
        ),
        "SDXL in one file; give its diffusers folder",
    ),
    "refiner": (
        lambda first, tmp: named(
            tmp, f"{UNET}label_emb.0.0.weight", f"{UNET}input_blocks.4.1.transformer_blocks.1.norm1.weight",
            "conditioner.embedders.0.model.ln_final.weight",
        ),
        "SDXL's refiner, which goes over a picture",
    ),
    "transformer": (
        lambda first, tmp: named(tmp, f"{UNET}joint_blocks.0.context_block.attn.qkv.weight"),
        "diffusion transformer .* give its diffusers folder",
    ),
    "video": (
        lambda first, tmp: named(tmp, "transformer_in.norm.weight", "down_blocks.0.temp_convs.0.conv1.0.weight"),
        "video network, as its temporal weights say",
    ),
    "unet file": (lambda first, tmp: first / "model/unet/diffusion_pytorch_model.safetensors", "this is a UNet alone"),
    "vae file": (lambda first, tmp: first / "model/vae/diffusion_pytorch_model.safetensors", "this is a VAE; give"),
    "lora": (lambda first, tmp: named(tmp, "lora_unet_down_blocks_0.lora_up.weight"), "LoRA in kohya's names; give"),
    "motion": (lambda first, tmp: named(tmp, "down_blocks.0.motion_modules.0.x"), "AnimateDiff motion modules, an add"),
    "unknown": (lambda first, tmp: named(tmp, "a.weight"), "no known network .*; give a whole checkpoint"),
    "pickle": (lambda first, tmp: (tmp / "a.ckpt").write_bytes(b"x") and tmp / "a.ckpt", "is no file of torch.save"),
    "damaged": (lambda first, tmp: (tmp / "a.safetensors").write_bytes(b"x") and tmp / "a.safetensors", "is damaged"),
    "missing": (lambda first, tmp: tmp / "nothing.safetensors", "does not exist; check the path"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used(first, tmp_path, case):
    make, sentence = FILES[case]
    path = make(first, tmp_path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        check_text_to_image(path)
    assert one_sentence(caught.value)
    with pytest.raises(CheckpointError, match=sentence):
        open_text_to_image(path)


def test_networks_of_ours_draw_no_pictures(tmp_path):
    config = UNetConfig(model_channels=32, channel_mult=(1,), attention_levels=(True,), num_res_blocks=1, head_dim=16)
    save_unet(VideoUNet(config), tmp_path / "ours.safetensors")
    with pytest.raises(CheckpointError, match="a DreamFactory unet, which draws no pictures") as caught:
        check_text_to_image(tmp_path / "ours.safetensors")
    assert one_sentence(caught.value)


FOLDERS = {
    "empty": (lambda folder: (folder / "model_index.json").unlink(), "no folder of a diffusers pipeline"),
    "image to image": (
        lambda folder: edit(folder / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline"),
        "needs a picture to start from",
    ),
    "video": (
        lambda folder: edit(folder / "model_index.json", _class_name="TextToVideoSDPipeline"),
        "makes video and no single pictures",
    ),
    "a prior": (
        lambda folder: edit(folder / "model_index.json", _class_name="KandinskyPriorPipeline"),
        "takes no height",
    ),
    "not there": (
        lambda folder: edit(folder / "model_index.json", _class_name="NewPipeline"),
        "NewPipeline, which diffusers .* does not have; update it",
    ),
    "no pipeline": (lambda folder: edit(folder / "model_index.json", _class_name="UNet2DModel"), "does not have"),
    "custom": (lambda folder: edit(folder / "model_index.json", _class_name=["mine", "Mine"]), "names no pipeline"),
    "json": (lambda folder: (folder / "model_index.json").write_text("{"), "is not valid JSON"),
    "config": (lambda folder: (folder / "unet" / "config.json").unlink(), "config.json does not exist"),
    "part": (lambda folder: shutil.rmtree(folder / "vae"), "lacks its part vae; download the whole folder"),
    "no weights": (
        lambda folder: (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.bin"),
        "has no weights: neither .* download the whole folder",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_be_used(spoilt, case):
    spoil, sentence = FOLDERS[case]
    spoil(spoilt)
    with pytest.raises((InputError, CheckpointError), match=sentence) as caught:
        check_text_to_image(spoilt)
    assert one_sentence(caught.value)
    with pytest.raises((InputError, CheckpointError), match=sentence):
        open_text_to_image(spoilt)


@pytest.mark.parametrize("code", ["None.py", "unet/diffusers.py", "library"])
def test_code_out_of_a_folder_is_never_run(xl, tmp_path, code):
    folder = shutil.copytree(xl[1], tmp_path / "model")
    if code == "library":
        edit(folder / "model_index.json", unet=["antigravity", "UNet2DConditionModel"])
    else:
        (folder / code).write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match="brings code of its own") as caught:
        check_text_to_image(folder)
    assert one_sentence(caught.value)


def test_a_file_needs_a_tokenizer(first, tmp_path):
    path = first / "model.safetensors"
    given: dict[str, Any]
    for given in ({}, {"like": TextEncoder.load(demo_text())}):
        with pytest.raises(InputError, match="name a transformers folder with its tokenizer") as caught:
            open_text_to_image(path, **given)
        assert one_sentence(caught.value)
        assert "--first-frame-tokenizer" in str(caught.value)
    with pytest.raises(InputError, match=r"has [\d,]+ tokens, the text encoder in .* 56") as caught:
        open_text_to_image(path, tokenizer=demo_text())
    assert one_sentence(caught.value)


def demo_text():
    from dreamfactory.pipelines.bundle import DEMO

    return DEMO / "text_encoder"


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("first_stage_model.decoder.mid.attn_1.q.weight", "lacks 1 weights of its VAE, decoder.mid_block"),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", "not complete: it lacks encoder.down.0"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "lacks 1 weights of its text encoder"),
        ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "not complete: it lacks emb"),
        ("model.diffusion_model.out.0.weight", "lacks 1 weights of a sd network"),
    ],
)
def test_lost_weights_are_told(first, tmp_path, lost, sentence):
    path = changed(first, tmp_path, lambda state: {k: v for k, v in state.items() if k != lost})
    with pytest.raises(CheckpointError, match=sentence) as caught:
        open_text_to_image(path, tokenizer=first / "model" / "tokenizer")
    assert one_sentence(caught.value)


def test_parts_that_do_not_belong_together_are_told(spoilt, tmp_path):
    pipeline = sd2(tmp_path)
    shutil.rmtree(spoilt / "text_encoder")
    pipeline.text_encoder.save_pretrained(spoilt / "text_encoder")
    with pytest.raises(InputError, match=r"text encoder .* is 128 wide, its UNet reads 768") as caught:
        open_text_to_image(spoilt)
    assert one_sentence(caught.value)


@pytest.mark.parametrize("which", ["ours", "xl"])
@pytest.mark.parametrize(
    ("size", "more", "sentence"),
    [
        ((16, 25), {}, "would draw 25x16; both sides must be multiples of"),
        ((0, 16), {}, "both sides must be multiples of"),
        (SIZE, {"steps": 0}, "0 steps; expected 1 to 1000"),
        (SIZE, {"guidance_scale": float("nan")}, "guidance nan; expected 0 to 100"),
    ],
)
def test_what_no_model_could_draw(first, xl, which, size, more, sentence):
    drawer = open_text_to_image(first / "model" if which == "ours" else xl[1])
    with pytest.raises(InputError, match=sentence) as caught:
        drawer.draw(TEXT, NEGATIVE, SEEDS, size, **{"steps": STEPS, "guidance_scale": GUIDANCE} | more)
    assert one_sentence(caught.value)


def test_a_folder_is_blamed_for_what_it_is_to_blame_for(xl, monkeypatch):
    def failing(error):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(DiffusionPipeline, "from_pretrained", fail)

    failing(OSError(13, "Permission denied"))
    with pytest.raises(InputError, match="Permission denied") as caught:
        open_text_to_image(xl[1])
    assert one_sentence(caught.value)
    for error in (MemoryError("no"), torch.OutOfMemoryError("CUDA out of memory"), ModuleNotFoundError("accelerate")):
        failing(error)
        with pytest.raises(type(error)):
            open_text_to_image(xl[1])


def test_a_pipeline_that_refuses_says_why(xl, monkeypatch):
    drawer = open_text_to_image(xl[1])

    def refuse(*args, **kwargs):
        raise ValueError("`height` has to be divisible by 64.")

    monkeypatch.setattr(drawer, "pipeline", refuse)
    with pytest.raises(InputError, match=r"diffusers says .*divisible by 64") as caught:
        ours(drawer)
    assert one_sentence(caught.value)


def test_a_picture_that_a_safety_checker_blackened_is_none(xl, monkeypatch):
    drawer = open_text_to_image(xl[1])
    black = SimpleNamespace(images=torch.zeros(1, 3, 64, 64), nsfw_content_detected=[True])
    monkeypatch.setattr(drawer, "pipeline", lambda **arguments: black)
    with pytest.raises(InputError, match=r"safety checker .* another seed or text") as caught:
        ours(drawer)
    assert one_sentence(caught.value)


def test_what_a_pipeline_of_diffusers_has_no_place_for_is_told(xl, tmp_path):
    with pytest.raises(InputError, match="StableDiffusionXLPipeline, which brings its own tokenizers") as caught:
        check_text_to_image(xl[1], tokenizer=tmp_path)
    assert one_sentence(caught.value)
    drawer = open_text_to_image(xl[1], attention="math")
    assert drawer.notes == [
        "StableDiffusionXLPipeline computes attention as diffusers does; math is not used for the picture"
    ]


def test_a_missing_library_is_not_the_folders_fault(first, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match="diffusers"):
        check_text_to_image(first / "model")
