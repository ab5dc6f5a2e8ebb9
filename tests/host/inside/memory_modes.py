"""The host's ways of loading, on a CPU. To be started before anything else of the host is imported.

    classic   weights are there when a module is built (--disable-dynamic-vram)
    lazy      as on a card by default: Linear and Embedding come without weights, files are the host's own views
    dynamic   that, and ModelPatcherDynamic itself, which the host keeps for cards

Of the card only its memory is stood in for: `Memory`, in the place of comfy-aimdo's. The patcher, the reader of files
and what casts weights when they are needed are the host's. `Memory.evict()` is what another model's load would do.
"""

from __future__ import annotations

MODES = ("classic", "lazy", "dynamic")
RESIDENT = []  # every Memory made, for those who ask what a card would hold


def start(mode: str) -> None:
    if mode == "classic":
        return
    import comfy_aimdo.control

    comfy_aimdo.control.init()  # the native part reads files without a card; it has to be there before its importers
    import comfy.memory_management

    comfy.memory_management.aimdo_enabled = True
    if mode == "dynamic":
        _pretend_a_card()


class Memory:
    """A model's share of a card's memory: pieces that are there until they are evicted."""

    def __init__(self, size: int, device: object = None) -> None:
        self.pieces, self.generation = [], 0
        RESIDENT.append(self)

    def alloc(self, size: int):
        import torch

        self.pieces.append(torch.full((size,), 255, dtype=torch.uint8))  # NaN, in every kind of number
        return self, len(self.pieces) - 1, size

    def prioritize(self) -> None:
        pass

    def loaded_size(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def free_memory(self, size: float) -> int:
        self.evict()
        return self.loaded_size()

    def evict(self) -> None:
        self.generation += 1
        for piece in self.pieces:
            piece.fill_(255)


def _pretend_a_card() -> None:
    import comfy.cli_args

    comfy.cli_args.args.disable_pinned_memory = True
    import comfy.model_patcher
    import comfy.ops
    import comfy_aimdo.model_vbar as vbar
    import comfy_aimdo.torch

    vbar.ModelVBAR = Memory
    vbar.vbar_fault = lambda piece: (piece[1], piece[0].generation)
    vbar.vbar_signature_compare = lambda a, b: a is not None and a == b
    vbar.vbar_unpin = lambda piece: None
    comfy_aimdo.torch.aimdo_to_tensor = lambda piece, device: piece[0].pieces[piece[1]]
    cast = comfy.ops.cast_bias_weight

    def cast_from_memory(module, input=None, dtype=None, device=None, bias_dtype=None, offloadable=False, **kwargs):
        """The branch for weights in a card's memory, which the host takes where they and the input are apart."""
        if not hasattr(module, "_v"):
            return cast(module, input, dtype, device, bias_dtype, offloadable, **kwargs)
        dtype = dtype or (module.weight.dtype if input is None else input.dtype)
        if device is None:
            assert input is not None  # the host says one of both
            device = input.device
        bias_dtype = bias_dtype or dtype
        compute, requant = kwargs.get("compute_dtype"), kwargs.get("want_requant", False)
        comfy.ops.cast_modules_with_vbar([module], dtype, device, bias_dtype, False)
        weight, bias = comfy.ops.resolve_cast_module_with_vbar(module, dtype, device, bias_dtype, compute, requant)
        for name in ("weight", "bias"):
            patched = getattr(module, f"{name}_lowvram_function", None)
            if patched is not None:
                patched.clear_prepared()
        del module._prefetch
        return (weight, bias, (None, None, None)) if offloadable else (weight, bias)

    comfy.ops.cast_bias_weight = cast_from_memory

    class PatcherOnACard(comfy.model_patcher.ModelPatcherDynamic):
        """The host's, which turns into the classic one on a CPU at these three places."""

        def __new__(cls, *args, **kwargs):
            return object.__new__(cls)

        def _vbar_get(self, create=False):
            found = self.model.dynamic_vbars.get(self.load_device)
            if create and found is None:
                found = self.model.dynamic_vbars[self.load_device] = Memory(self.model_size())
            return found

        def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
            memory = self._vbar_get()
            freed = 0 if memory is None else memory.free_memory(memory_to_free)
            return freed if freed >= memory_to_free else freed + self.restore_loaded_backups()

    comfy.model_patcher.CoreModelPatcher = PatcherOnACard
