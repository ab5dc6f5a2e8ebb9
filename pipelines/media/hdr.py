"""HDR frames as ordinary video shows them: numbers of the file -> light -> what a BT.709 screen can show.

    stored  --H.273's matrix-->  R'G'B'  --PQ or HLG-->  light, nits  --primaries-->  light of BT.709's red, green, blue
            --tone map-->  0 to 203 nits  --BT.1886's inverse-->  8 bit

- PQ (SMPTE ST 2084; ITU-R BT.2100 table 4) states nits, that is cd/m2, from 0 to 10,000.
- HLG (ARIB STD-B67; BT.2100 table 5) states light of the scene; it is shown as on its nominal screen of 1,000 nits.
- White of ordinary video is HDR's reference white, 203 nits (ITU-R BT.2408). So what HDR has below about 88 nits, most
  of a picture, is as bright as it was meant to be; above, the EETF of ITU-R BT.2390 (5.4.1) rolls off 1,000 nits to
  203. Reference white itself comes out as 230 of 255. What is above 1,000 nits is clipped.
- All three colours are dimmed by what the largest of them needs, so no hue turns. Colours BT.709 has no light for lose
  what is below zero.

What a file states of the screen it was graded on does not count: many files state nothing, or something wrong, and
frames of one video should not differ by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# As ITU-T H.273 numbers them: transfers, primaries, matrices.
PQ, HLG = 16, 18
BT709, UNSPECIFIED, BT2020, P3 = 1, 2, 9, 12
RGB = 0
RED_BLUE = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # in luma, by matrix
# x, y of red, green and blue; white is D65 in all (BT.709, BT.2020, SMPTE EG 432-1).
PRIMARIES = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)

BRIGHTEST, WHITE = 1000.0, 203.0  # nits: of HDR, and what ordinary video's white is of it
BT1886 = 2.4  # exponent of an ordinary screen
STEPS = 65535  # of tables
STRIP = 1 << 16  # pixels at a time: their floating point numbers stay in the processor's cache


@dataclass(frozen=True)
class Signal:
    """What the numbers of an HDR frame mean; all as H.273 numbers it."""

    transfer: int  # PQ or HLG
    primaries: int  # of PRIMARIES; any other is taken for BT.2020, which HDR is made in
    matrix: int  # RGB, or of RED_BLUE
    full: bool  # luma from 0 on, not from 16 / 256; RGB always is
    bits: int  # of the file's luma, 8 to 16


def to_sdr(stored: np.ndarray, signal: Signal) -> np.ndarray:
    """(h, w, 3) uint16 -> (h, w, 3) uint8, R'G'B' of BT.709.

    stored: Y'CbCr, the file's numbers in the upper bits; or R'G'B', 0 to 65,535.
    """
    scale, offset = _to_rgb(signal)
    shown = np.empty(stored.shape, np.uint8)
    flat, out = stored.reshape(-1, 3), shown.reshape(-1, 3)
    for start in range(0, len(flat), STRIP):
        code = flat[start : start + STRIP].astype(np.float32) @ scale.T + offset
        light = _light(code.clip(0, 1), signal)
        largest = np.maximum(np.maximum(light[:, 0], light[:, 1]), light[:, 2])  # light.max(1) takes 30 times as long
        light *= _steps(_tone_gains(), largest / BRIGHTEST)[:, None]
        # Its square root, as a table of light itself would be too coarse where it is dark.
        out[start : start + STRIP] = _steps(_screen_codes(), np.sqrt(light / WHITE))
    return shown


# -- the standards' functions, each of arrays of any shape -------------------------------------------------------------


def pq_to_nits(code: np.ndarray) -> np.ndarray:
    """The EOTF of SMPTE ST 2084: [0, 1] -> 0 to 10,000 nits."""
    root = np.power(code, 1 / M2)
    return 10_000 * np.power(np.maximum(root - C1, 0) / (C2 - C3 * root), 1 / M1)


def nits_to_pq(nits: np.ndarray | float) -> np.ndarray:
    """Its inverse."""
    power = np.power(np.asarray(nits) / 10_000, M1)
    return np.power((C1 + C2 * power) / (1 + C3 * power), M2)


M1, M2 = 2610 / 16384, 2523 / 4096 * 128
C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def hlg_to_scene(code: np.ndarray) -> np.ndarray:
    """The inverse OETF of ARIB STD-B67, in BT.2100's scale: [0, 1] -> light of the scene, [0, 1]."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12)


A = 0.17883277
B = 1 - 4 * A
C = 0.5 - A * np.log(4 * A)
HLG_GAMMA = 1.2  # BT.2100's for a screen of 1,000 nits


def dimmed(nits: np.ndarray) -> np.ndarray:
    """The EETF of BT.2390, 5.4.1, for blacks of 0: 0 to BRIGHTEST -> 0 to WHITE nits. Brighter is white."""
    top = nits_to_pq(BRIGHTEST)
    e1 = nits_to_pq(np.minimum(nits, BRIGHTEST)) / top
    largest = nits_to_pq(WHITE) / top
    knee = 1.5 * largest - 0.5
    t = (e1 - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * largest
    return np.where(e1 < knee, nits, pq_to_nits(np.where(e1 < knee, e1, spline) * top))


def to_xyz(primaries: int) -> np.ndarray:
    """(3, 3): linear R, G, B of these primaries -> CIE X, Y, Z with Y of white 1 (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*PRIMARIES[primaries], D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


# -- as tables and matrices --------------------------------------------------------------------------------------------


@lru_cache
def _to_rgb(signal: Signal) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,): stored numbers -> R'G'B' (H.273, 8.3, equations for matrix coefficients and ranges)."""
    if signal.matrix == RGB:
        return np.eye(3, dtype=np.float32) / 65535, np.zeros(3, np.float32)
    red, blue = RED_BLUE[signal.matrix]
    green = 1 - red - blue
    cb, cr = 2 * (1 - blue), 2 * (1 - red)
    matrix = np.array([(1, 0, cr), (1, -cb * blue / green, -cr * red / green), (1, cb, 0)])
    top = ((1 << signal.bits) - 1) << (16 - signal.bits)
    size = np.array((top, top, top) if signal.full else (219 << 8, 224 << 8, 224 << 8))
    base = np.array((0 if signal.full else 16 << 8, 1 << 15, 1 << 15))
    return (matrix / size).astype(np.float32), (-matrix @ (base / size)).astype(np.float32)


def _light(code: np.ndarray, signal: Signal) -> np.ndarray:
    """(n, 3) R'G'B' in [0, 1] -> nits of BT.709's primaries, none below 0."""
    light = _steps(_transfer(signal.transfer), code)
    primaries = signal.primaries if signal.primaries in PRIMARIES else BT2020
    if signal.transfer == HLG:
        # BT.2100's OOTF: a brighter scene is shown with more contrast, by its luminance, so that no hue turns.
        luminance = light @ to_xyz(primaries)[1].astype(np.float32)
        light *= (BRIGHTEST * luminance ** (HLG_GAMMA - 1))[:, None]
    if primaries != BT709:
        light = light @ _to_bt709(primaries).T
    return np.maximum(light, 0, out=light)


def _steps(table: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A table's entries nearest to places in [0, 1]; further ones are its last."""
    return table.take(np.minimum(at * STEPS + 0.5, STEPS).astype(np.uint16), mode="wrap")


@lru_cache
def _transfer(transfer: int) -> np.ndarray:
    code = np.linspace(0, 1, STEPS + 1)
    return (pq_to_nits(code) if transfer == PQ else hlg_to_scene(code)).astype(np.float32)


@lru_cache
def _to_bt709(primaries: int) -> np.ndarray:
    return np.linalg.solve(to_xyz(BT709), to_xyz(primaries)).astype(np.float32)


@lru_cache
def _tone_gains() -> np.ndarray:
    """By light up to BRIGHTEST, what it is multiplied by; the last for more, which comes out above WHITE: clipped."""
    nits = np.linspace(0, BRIGHTEST, STEPS + 1)
    nits[0] = nits[1]
    return (dimmed(nits) / nits).astype(np.float32)


@lru_cache
def _screen_codes() -> np.ndarray:
    """By the square root of light up to white."""
    return np.round(255 * np.linspace(0, 1, STEPS + 1) ** (2 / BT1886)).astype(np.uint8)
