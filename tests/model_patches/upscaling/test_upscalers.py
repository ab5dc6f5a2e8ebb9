"""Upscalers at work: what strips and tiles must not change, what memory may, what is refused."""

import importlib.util
import subprocess
import sys
import weakref
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dreamfactory.errors import CheckpointError, ConfigError, LibraryError
from dreamfactory.model_patches.upscaling.enlarge import STRIP_ELSEWHERE, Enlarger, ramp, starts
from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig, save_rcan
from dreamfactory.model_patches.upscaling.sizes import check_target, resize_cover_crop
from dreamfactory.model_patches.upscaling.upscaler import Upscaler, check_dtype, load_upscaler, upscaler_of
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.training.live import Live

TINY = RCANConfig(groups=1, blocks=2, features=8, reduction=4, scale=4)


def rcan(**changes):
    return RCAN(RCANConfig(**{**vars(TINY), **changes})).eval().requires_grad_(False)


class Plain(nn.Module):
    """Convolutions that see 2 pixels around each."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.second(self.first(x).relu())) * 0.1 + 0.5


class Nearest(nn.Module):
    """Every pixel becomes scale x scale of its kind."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def upscaler(network, scale, call=None):
    return Upscaler(network, scale, "it", half=False, bfloat16=True, call=call)


# -- strips and tiles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("mean_shift", [False, True])
def test_an_rcan_in_strips_is_the_undivided_one(scale, mean_shift):
    network, frames = rcan(scale=scale, mean_shift=mean_shift), torch.rand(2, 3, 97, 131)
    with torch.no_grad():
        whole = network(frames).clamp(0, 1)
    enlarged = Enlarger(upscaler(network, scale), "cpu", tile=64)(frames)  # 31 rows a strip
    assert enlarged.shape == (2, 3, scale * 97, scale * 131)
    assert (enlarged - whole).abs().max() < 1e-5


def test_an_rcan_is_never_cut_by_a_pixel_more_than_asked(monkeypatch):
    asked = []
    forward = RCAN.forward
    monkeypatch.setattr(RCAN, "forward", lambda self, x, rows=None: asked.append(rows) or forward(self, x, rows))
    Enlarger(upscaler(rcan(), 4), "cpu", tile=80)(torch.rand(1, 3, 50, 200))
    Enlarger(upscaler(rcan(), 4), "cpu", tile=64)(torch.rand(1, 3, 2, 5000))
    assert asked == [80 * 80 // 200, 2]  # the fewest there are


@pytest.mark.parametrize("tile", [64, 100, 150])
@pytest.mark.parametrize("scale", [2, 3])
def test_tiles_are_the_undivided_image(tile, scale):
    network, frames = Plain(scale), torch.rand(2, 3, 171, 233)
    with torch.no_grad():
        whole = network(frames)
    tiled = Enlarger(upscaler(network, scale), "cpu", tile=tile)(frames)
    assert (tiled - whole).abs().max() < 1e-5  # at borders and seams as anywhere


@pytest.mark.parametrize("size", [(64, 65), (65, 200), (300, 64), (127, 129), (80, 1)])
def test_a_constant_image_stays_constant(size):
    frames = torch.full((1, 3, *size), 0.3)
    tiled = Enlarger(upscaler(Nearest(2), 2), "cpu", tile=64)(frames)
    assert (tiled - 0.3).abs().max() < 1e-6


@pytest.mark.parametrize("length", [1, 64, 65, 79, 112, 113, 500, 1001])
def test_tiles_cover_a_length_and_fade_into_each_other(length):
    tile, overlap, scale = 64, 16, 2
    begins, total = starts(length, tile, overlap), torch.zeros(scale * length)
    for begin in begins:
        weight = ramp(begin, min(tile, length), length, overlap, scale)
        total[scale * begin : scale * begin + len(weight)] += weight
    assert begins[0] == 0
    assert begins[-1] + min(tile, length) == length
    assert all(0 < b - a <= tile - overlap for a, b in pairwise(begins))
    assert total.min() > 0.99
    inner = ramp(1, tile, length + tile + 1, overlap, scale)
    assert inner[0] == inner[-1] == 0  # what a network sees of a cut does not count
    assert inner.max() == 1


class Spoiling(Nearest):
    """Computes in place on its input, as spandrel's RCAN does."""

    def forward(self, x):
        return super().forward(x.mul_(0.5))


@pytest.mark.parametrize("tile", [None, 64])
def test_frames_stay_as_they_are(tile):
    frames = torch.rand(3, 3, 90, 70)
    kept = frames.clone()
    enlarged = Enlarger(upscaler(Spoiling(2), 2), "cpu", tile=tile)(frames)
    assert torch.equal(frames, kept)
    assert torch.allclose(enlarged, Nearest(2)(kept) / 2)
    enlarged.add_(1)  # an ordinary tensor, though computed in inference mode


def test_frames_are_clamped_and_stay_apart():
    class Steep(Nearest):
        def forward(self, x):
            return super().forward(x) * 4 - 1

    frames = torch.rand(5, 3, 20, 30)
    enlarged = Enlarger(upscaler(Steep(2), 2), "cpu")(frames)
    assert (enlarged.min(), enlarged.max()) == (0, 1)
    apart = torch.cat([Enlarger(upscaler(Steep(2), 2), "cpu")(frame[None]) for frame in frames])
    assert torch.equal(enlarged, apart)


# -- memory -------------------------------------------------------------------------------------------------------


class Hungry(Nearest):
    """Has memory for so many pixels at once."""

    def __init__(self, limit, error=None):
        super().__init__(2)
        self.limit, self.error, self.seen = limit, error or torch.OutOfMemoryError("none left"), []

    def forward(self, x):
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        self.seen.append((tuple(x.shape), pixels <= self.limit))
        if pixels > self.limit:
            raise self.error
        return super().forward(x)


def test_work_is_divided_when_memory_runs_out_and_stays_so():
    network, frames, told = Hungry(90 * 90), torch.rand(3, 3, 200, 150), []
    enlarge = Enlarger(upscaler(network, 2), "cpu", at_once=3, say=told.append)
    assert torch.allclose(enlarge(frames), Nearest(2)(frames))
    failed = [shape for shape, fits in network.seen if not fits]
    # All frames, one, tiles of half the longer side; then of half that.
    assert failed == [(3, 3, 200, 150), (1, 3, 200, 150), (1, 3, 100, 100)]
    assert len(told) == 3
    assert "one at a time" in told[0]
    assert "tiles of 64 pixels" in told[-1]
    network.seen.clear()
    enlarge(frames)
    assert all(fits for _, fits in network.seen)
    assert len(told) == 3


def test_nothing_left_to_divide_is_one_sentence():
    for network in (Hungry(100), Hungry(100, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))):
        with pytest.raises(ConfigError, match="200x300 cannot be enlarged x2 in the memory of cpu, not even"):
            Enlarger(upscaler(network, 2), "cpu")(torch.rand(1, 3, 300, 200))


class Pretended(Live):
    """A device with so many bytes free: what is made beyond them is refused."""

    def __init__(self, limit, aside=0):
        super().__init__()
        self.limit, self.aside = limit + aside, aside

    def count(self, storage):
        if storage not in self.known and self.bytes + storage.nbytes() > self.limit:
            raise torch.OutOfMemoryError(f"{storage.nbytes()} of {self.limit - self.bytes} bytes")
        super().count(storage)

    def free(self):
        return min(self.limit - self.bytes, self.limit - self.aside)


@pytest.mark.parametrize("told", [True, False], ids=["asked what is free", "finding out"])
@pytest.mark.parametrize("mib", [600, 64, 32, 16, 12, 8])
def test_an_rcan_is_exact_in_any_memory(mib, told):
    """Six sizes of memory: the whole image, to float rounding, within what there is; never a tile."""
    network, frames, notes = rcan(), torch.rand(4, 3, 90, 160), []
    with torch.no_grad():
        whole = network(frames).clamp(0, 1)
    memory = Pretended(mib * 2**20, aside=whole.nbytes)  # the result, which is not on the device
    with memory:
        enlarge = Enlarger(upscaler(network, 4), "cpu", at_once=4, free=memory.free if told else None, say=notes.append)
        enlarge.strip = STRIP_ELSEWHERE // (2 * network.config.features * 4**2 * 4)  # as on a GPU, in float32
        enlarged = enlarge(frames)
    assert (enlarged - whole).abs().max() < 1e-5
    assert memory.peak <= memory.limit
    assert not any("tiles" in note for note in notes)
    if told:
        assert notes == []  # what is free was planned with
    elif mib <= 12:
        assert any("strips of" in note for note in notes)


def test_an_rcan_that_fits_in_no_strips_is_one_sentence():
    memory = Pretended(3 * 2**20)
    with memory, pytest.raises(ConfigError, match="not even in strips of 2 rows"):
        Enlarger(upscaler(rcan(), 4), "cpu", free=memory.free)(torch.rand(1, 3, 300, 200))


def test_what_a_failed_pass_held_is_free_before_the_next_and_before_others_make_room():
    held = []

    class Keeping(Nearest):
        def forward(self, x):
            big = torch.zeros(2**20)
            if x.shape[2] > 100:
                held.append(weakref.ref(big))
                raise torch.OutOfMemoryError("none left")
            return super().forward(x)

    alive = []
    enlarge = Enlarger(
        upscaler(Keeping(2), 2), "cpu", make_room=lambda: alive.append(any(r() is not None for r in held))
    )
    enlarge(torch.rand(1, 3, 300, 100))
    assert alive == [False] * len(held)
    assert held


def test_the_hosts_own_word_for_too_little_memory_counts():
    class Full(Exception):
        pass

    enlarge = Enlarger(upscaler(Hungry(70 * 70, Full()), 2), "cpu", is_oom=lambda error: isinstance(error, Full))
    enlarge(torch.rand(1, 3, 100, 100))
    with pytest.raises(Full):
        Enlarger(upscaler(Hungry(70 * 70, Full()), 2), "cpu")(torch.rand(1, 3, 100, 100))


def test_other_errors_are_no_matter_of_memory():
    network = Hungry(100, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Enlarger(upscaler(network, 2), "cpu")(torch.rand(1, 3, 100, 100))
    assert len(network.seen) == 1


# -- what a network is --------------------------------------------------------------------------------------------


def descriptor(network=None, **changes):
    """What spandrel says of a model."""
    fields = {
        "model": network or Plain(2),
        "scale": 2,
        "input_channels": 3,
        "output_channels": 3,
        "supports_half": True,
        "supports_bfloat16": False,
        "purpose": "SR",
        "architecture": SimpleNamespace(id="Plain"),
    }
    return SimpleNamespace(**{**fields, **changes})


REFUSED = {
    "no model": (object(), "x is no upscaler"),
    "a module": (Plain(2), "x is no upscaler"),
    "inpainting": (descriptor(purpose="Inpainting", scale=1), "fills in holes"),
    "faces": (descriptor(purpose="FaceSR", scale=8), "restores cut-out faces"),
    "restoration": (descriptor(purpose="Restoration", scale=1), "restores without enlarging"),
    "grey": (descriptor(input_channels=1, output_channels=1), "takes 1 and makes 1 channels"),
    "alpha": (descriptor(input_channels=4, output_channels=4), "takes 4 and makes 4 channels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_enlarges_no_images_is_refused(kind):
    given, sentence = REFUSED[kind]
    with pytest.raises(CheckpointError, match=sentence) as error:
        upscaler_of(given, "x")
    assert str(error.value).count(".") == 1  # one sentence


def test_spandrels_models_are_called_as_spandrel_says():
    network, shapes = Plain(2), []

    class Descriptor(SimpleNamespace):
        def __call__(self, image):
            shapes.append(tuple(image.shape))
            return self.model(image)

    given = Descriptor(**vars(descriptor(network)))
    found = upscaler_of(given, "x")
    assert (found.network, found.scale, found.half, found.bfloat16) == (network, 2, True, False)
    Enlarger(found, "cpu")(torch.rand(3, 3, 20, 30))
    assert shapes == [(1, 3, 20, 30)] * 3  # its call takes one image


def test_an_rcan_of_spandrels_becomes_ours_with_the_same_weights():
    network = rcan(mean_shift=True)
    found = upscaler_of(descriptor(network, scale=4, supports_half=False, supports_bfloat16=True), "x")
    assert isinstance(found.network, RCAN)
    assert found.network is not network
    assert found.call is None
    first = "head.0.weight"
    assert found.network.get_parameter(first).data_ptr() == network.get_parameter(first).data_ptr()
    assert (found.half, found.bfloat16) == (False, True)


def test_files_of_ours_need_no_spandrel(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    network, frames = rcan(), torch.rand(2, 3, 17, 30)
    save_rcan(network, tmp_path / "x.safetensors", torch.float32)
    found = load_upscaler(tmp_path / "x.safetensors")
    assert (found.scale, found.name) == (4, "x.safetensors")
    with torch.no_grad():
        assert (Enlarger(found, "cpu")(frames) - network(frames).clamp(0, 1)).abs().max() < 1e-6
    save_rcan(network, tmp_path / "half.safetensors", torch.float16)  # on disk; computed in fp32 all the same
    half = Enlarger(load_upscaler(tmp_path / "half.safetensors"), "cpu")(frames)
    assert (half - network(frames).clamp(0, 1)).abs().max() < 1e-2


def other_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def test_files_of_others_need_spandrel(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(
        LibraryError, match=r"needs spandrel, which is not installed; .*pip install --no-deps spandrel, "
    ):
        load_upscaler(other_file(tmp_path))


WITHOUT_TORCHVISION = """
import sys, torch
if {broken}:
    sys.path.insert(0, {folder!r})
else:
    sys.modules["torchvision"] = None
from safetensors.torch import save_file
from dreamfactory.model_patches.upscaling.enlarge import Enlarger
from dreamfactory.model_patches.upscaling.upscaler import load_upscaler
try:
    load_upscaler({folder!r} + "/other.safetensors")
except Exception as error:
    print(error)
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet
torch.manual_seed(0)
networks = SRVGGNetCompact(num_feat=16, num_conv=2, upscale=2), RRDBNet(num_filters=8, num_blocks=1)
for n, network in enumerate(networks):
    save_file({{k: v.contiguous() for k, v in network.state_dict().items()}}, {folder!r} + f"/{{n}}.safetensors")
    found, frames = load_upscaler({folder!r} + f"/{{n}}.safetensors"), torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        off = (Enlarger(found, "cpu")(frames) - network.eval()(frames).clamp(0, 1)).abs().max()
    assert off < 1e-5, (n, off)
assert "torchvision" not in sys.modules or sys.modules["torchvision"] is None
"""


@pytest.mark.parametrize("broken", [False, True])
def test_public_upscalers_need_no_torchvision(tmp_path, broken):
    """Nor mind one that was made for another torch: pip would replace torch to mend it."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed: pip install --no-deps spandrel")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('no torchvision::nms')")
    script = WITHOUT_TORCHVISION.format(broken=broken, folder=str(other_file(tmp_path).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of no image network that spandrel knows" in done.stdout


def stand_in(monkeypatch, load):
    """A spandrel that loads as told."""
    spandrel: Any = ModuleType("spandrel")
    spandrel.UnsupportedModelError = type("UnsupportedModelError", (Exception,), {})
    spandrel.ModelLoader = lambda: SimpleNamespace(load_from_state_dict=lambda state: load(spandrel, state))
    monkeypatch.setitem(sys.modules, "spandrel", spandrel)


def test_what_spandrel_says_of_a_file(tmp_path, monkeypatch):
    def unknown(spandrel, state):
        raise spandrel.UnsupportedModelError

    def damaged(spandrel, state):
        raise RuntimeError("Error(s) in loading state_dict for Net:\n\tMissing key(s)")

    path = other_file(tmp_path)
    for load, sentence in (
        (unknown, "is no upscaler: its 1 weights are of no image network"),
        (
            damaged,
            r"spandrel cannot build one of its weights \(Error\(s\) in loading state_dict for Net\)",
        ),
        (lambda spandrel, state: descriptor(scale=1), "restores without enlarging"),
    ):
        stand_in(monkeypatch, load)
        with pytest.raises(CheckpointError, match=sentence) as error:
            load_upscaler(path)
        assert "\n" not in str(error.value)
    stand_in(monkeypatch, lambda spandrel, state: descriptor())
    assert load_upscaler(path).scale == 2


def test_files_that_are_no_upscalers(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"pickle")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    for path, sentence in (
        (DEMO / "unet.safetensors", "no upscaler: it is a video network of DreamFactory"),
        (tmp_path / "x.pth", "is no file of torch.save"),
        (tmp_path / "x.safetensors", "is no safetensors file, or is damaged"),
        (tmp_path / "gone.pth", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            load_upscaler(path)


def test_networks_that_do_not_do_what_they_say():
    frames = torch.rand(1, 3, 20, 30)
    with pytest.raises(CheckpointError, match="which is not x2"):
        Enlarger(upscaler(Nearest(4), 2), "cpu")(frames)

    class Broken(Nearest):
        def forward(self, x):
            return super().forward(x) / 0 * 0

    with pytest.raises(ConfigError, match="computes no numbers of these frames in fp32; choose another model"):
        Enlarger(upscaler(Broken(2), 2), "cpu")(frames)
    with pytest.raises(ConfigError, match="computes no numbers of these frames in bf16; choose fp32"):
        Enlarger(upscaler(Broken(2), 2), "cpu", torch.bfloat16)(frames)
    network = Plain(2).requires_grad_(False)
    with pytest.raises(ConfigError, match=r"no picture \(NaN or infinite\)"):
        Enlarger(upscaler(network, 2), "cpu")(frames / 0 * 0)
    network.get_parameter("second.bias")[0] = torch.nan
    with pytest.raises(CheckpointError, match="holds weights that are no numbers"):
        Enlarger(upscaler(network, 2), "cpu")(frames)


# -- precision and sizes ------------------------------------------------------------------------------------------


def test_precision():
    found = Upscaler(rcan(), 4, "it", half=False, bfloat16=True)
    check_dtype(found, torch.float32)
    check_dtype(found, torch.bfloat16)
    with pytest.raises(ConfigError, match="it does not compute in fp16; choose fp32 or bf16"):
        Enlarger(found, "cpu", torch.float16)
    with pytest.raises(ConfigError, match="choose fp32"):
        check_dtype(found, torch.int8)
    frames = torch.rand(1, 3, 16, 16)
    whole = Enlarger(found, "cpu")(frames)
    rounded = Enlarger(found, "cpu", torch.bfloat16)(frames)
    assert rounded.dtype == torch.float32
    assert (rounded - whole).abs().max() < 0.05
    assert not torch.equal(rounded, whole)


def test_networks_that_mix_precisions():
    class Mixing(Plain):
        def forward(self, x):
            return super().forward(x + torch.zeros(1))  # fp32 again

    class Stubborn(Nearest):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise RuntimeError("expected scalar type Float but found BFloat16")
            return super().forward(x)

    class Wrong(Nearest):
        def forward(self, x):
            return super().forward(x.addmm(x, x))

    network, frames = Mixing(2), torch.rand(1, 3, 16, 16)
    whole = Enlarger(upscaler(network, 2), "cpu")(frames)
    assert (Enlarger(upscaler(network, 2), "cpu", torch.bfloat16)(frames) - whole).abs().max() < 0.02
    with pytest.raises(ConfigError, match=r"it fails in bf16 \(.*\); choose fp32"):
        Enlarger(upscaler(Stubborn(2), 2), "cpu", torch.bfloat16)(frames)
    with pytest.raises(RuntimeError, match="must be a matrix"):  # in any precision: not to be blamed on one
        Enlarger(upscaler(Wrong(2), 2), "cpu", torch.bfloat16)(frames)


def test_a_tile_of_a_few_pixels_is_refused():
    with pytest.raises(ConfigError, match="tile is 10; expected 64 pixels or more"):
        Enlarger(upscaler(Nearest(2), 2), "cpu", tile=10)


def test_targets():
    check_target(4, 192, 344, 768, 1376)
    check_target(4, 192, 344, 100, 100)
    for height, width, factor, wanted in (
        (768, 1376, "x4", "x4"),
        (386, 688, "x2.02", "x3"),
        (384, 1204, "x3.5", "x4"),
    ):
        with pytest.raises(ConfigError) as error:
            check_target(2, 192, 344, height, width)
        assert str(error.value) == (
            f"344x192 times 2 is 688x384; {width}x{height} asks for {factor}: "
            f"choose a {wanted} model or a smaller size."
        )


def test_fit_covers_and_crops_at_the_centre():
    frames = torch.rand(2, 3, 40, 60)
    assert resize_cover_crop(frames, 40, 60) is frames
    assert torch.equal(resize_cover_crop(frames, 40, 50), frames[..., 5:55])
    assert torch.equal(resize_cover_crop(frames, 30, 60), frames[:, :, 5:35])
    for size in ((20, 30), (20, 20), (7, 31), (39, 59)):
        fitted = resize_cover_crop(frames, *size)
        assert fitted.shape == (2, 3, *size)
        assert fitted.min() >= 0
        assert fitted.max() <= 1
    halves = torch.cat([torch.zeros(1, 3, 40, 30), torch.ones(1, 3, 40, 30)], 3)
    left, right = resize_cover_crop(halves, 20, 20).chunk(2, 3)  # 10 pixels are cut from either side of 30
    assert left[..., :6].max() < 0.05
    assert right[..., -6:].min() > 0.95
