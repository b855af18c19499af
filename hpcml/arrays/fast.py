"""Steps of layers fused by numba, as twins of numpy's passes: numba's only door, imported when `train.kernels = "fast"` asks for it.

Each function is compiled for float32 when this file is first imported, and kept in numba's cache (`arrays/kept.py`). All work on one
core, in one order, and let other threads run. Pooling gives the numbers of its numpy twin; sums of the others are taken in the order that
suits the registers, so they differ from numpy's in the last digits, and are the same on any number of ranks.

Letters: B images (B, H, W, C); m positions of d numbers; T tiles of 2 x 2 outputs by rows, 16 numbers each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding

from hpcml.arrays.kept import keep_compiled

NAME = f"numba {numba.__version__} for {binding.get_host_cpu_name()}"
"""What decides the bits of these functions beside their inputs."""


_KEPT = keep_compiled(numba)


def _compiled(signature: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles now, or takes what an earlier process compiled."""
    return numba.njit(signature, cache=_KEPT, nogil=True, error_model="numpy", **options)


_SUMS = {"reassoc", "contract", "nsz"}
"""What a compiler may assume so that a sum goes through all lanes of a register; NaN and infinity stay what they are."""


@_compiled("void(f4[:,:,:,::1], f4[:,:,:,::1], u1[:,:,:,::1])")
def pool_max(x: np.ndarray, out: np.ndarray, place: np.ndarray) -> None:
    """Overwrite out (B, H / 2, W / 2, C) with the maxima of x over windows of 2 x 2, and place with where each was, the first of equals."""
    B, h, w, C = out.shape
    for n in range(B):
        for i in range(h):
            for j in range(w):
                for c in range(C):
                    top, right = x[n, 2 * i, 2 * j, c], x[n, 2 * i, 2 * j + 1, c]
                    low, last = x[n, 2 * i + 1, 2 * j, c], x[n, 2 * i + 1, 2 * j + 1, c]
                    upper = right if right > top or right != right else top
                    lower = last if last > low or last != last else low
                    out[n, i, j, c] = lower if lower > upper or lower != lower else upper
                    at_top, at_low = np.uint8(right > top), np.uint8(2) + np.uint8(last > low)
                    place[n, i, j, c] = at_low if lower > upper else at_top


@_compiled("void(f4[:,:,:,::1], u1[:,:,:,::1], f4[:,:,:,::1])")
def spread_max(slope: np.ndarray, place: np.ndarray, back: np.ndarray) -> None:
    """Overwrite back (B, H, W, C) with the slopes at the places of the maxima and zeros elsewhere."""
    B, h, w, C = slope.shape
    for n in range(B):
        for i in range(h):
            for a in range(2):
                for j in range(w):
                    for b in range(2):
                        here = np.uint8(2 * a + b)
                        for c in range(C):
                            back[n, 2 * i + a, 2 * j + b, c] = slope[n, i, j, c] if place[n, i, j, c] == here else np.float32(0)


@_compiled("void(f4[:,::1], f4[::1], f4[::1], f4, f4[:,::1], f4[:,::1], f4[:,::1])", fastmath=_SUMS)
def layer_norm(
    x: np.ndarray, gain: np.ndarray, bias: np.ndarray, epsilon: float, out: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Overwrite out (m, d) with the normalised positions, mean (m, 1) and scale (m, 1) with what they were shifted and scaled by."""
    m, d = x.shape
    one = np.float32(1) / np.float32(d)
    for k in range(m):
        total = np.float32(0)
        for c in range(d):
            total += x[k, c]
        centre, square = total * one, np.float32(0)
        for c in range(d):
            apart = x[k, c] - centre
            square += apart * apart
        r = np.float32(1) / np.sqrt(square * one + epsilon)
        mean[k, 0], scale[k, 0] = centre, r
        for c in range(d):
            out[k, c] = (x[k, c] - centre) * r * gain[c] + bias[c]


@_compiled("void(f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], f4[::1], f4[::1], f4[::1])", fastmath=_SUMS)
def layer_norm_slope(
    slope: np.ndarray, x: np.ndarray, mean: np.ndarray, scale: np.ndarray, gain: np.ndarray, by_gain: np.ndarray, by_bias: np.ndarray
) -> None:
    """Overwrite slope (m, d) with the input's slope, by_gain (d,) and by_bias (d,) with the parameters'."""
    m, d = x.shape
    one = np.float32(1) / np.float32(d)
    by_gain[:] = 0
    by_bias[:] = 0
    for k in range(m):
        centre, r = mean[k, 0], scale[k, 0]
        plain, along = np.float32(0), np.float32(0)
        for c in range(d):
            g = slope[k, c] * gain[c]
            plain += g
            along += g * ((x[k, c] - centre) * r)
        plain, along = plain * one, along * one
        for c in range(d):
            by_gain[c] += slope[k, c] * ((x[k, c] - centre) * r)
        for c in range(d):
            by_bias[c] += slope[k, c]
        for c in range(d):
            slope[k, c] = r * (slope[k, c] * gain[c] - plain - (x[k, c] - centre) * r * along)


@_compiled("void(f4[::1], f4[::1])", fastmath={"contract"})
def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (m,) with GELU by tanh of x, and x (m,) with its derivative there.

    tanh is the rational function of degree 13 over 6 by which Eigen has it, true to a few units of the last digit.
    """
    a, b = np.float32(0.7978845608028654), np.float32(0.7978845608028654 * 0.044715)
    most, one, half = np.float32(7.90531110763549805), np.float32(1), np.float32(0.5)
    for k in range(len(x)):
        v = x[k]
        square = v * v
        u = v * (a + b * square)
        t = min(max(u, -most), most)
        q = t * t
        up = np.float32(-2.76076847742355e-16)
        up = up * q + np.float32(2.00018790482477e-13)
        up = up * q + np.float32(-8.60467152213735e-11)
        up = up * q + np.float32(5.12229709037114e-08)
        up = up * q + np.float32(1.48572235717979e-05)
        up = up * q + np.float32(6.37261928875436e-04)
        up = up * q + np.float32(4.89352455891786e-03)
        low = np.float32(1.19825839466702e-06)
        low = low * q + np.float32(1.18534705686654e-04)
        low = low * q + np.float32(2.26843463243900e-03)
        low = low * q + np.float32(4.89352518554385e-03)
        t = t * up / low
        t = one if u >= most else t
        t = -one if u <= -most else t  # what is left over there would be multiplied by x
        h = half + half * t
        y = v * h
        out[k] = y
        x[k] = h + np.float32(2) * y * (one - h) * (a + np.float32(3) * b * square)


@_compiled("f4(f4)", fastmath={"contract"})
def _exp(x: Any) -> Any:
    """Return exp of a float32, at most 88, to one unit of its last digit, as Cephes has it; 0 below -87, what is no number as it is."""
    v = max(x, np.float32(-87.3))
    n = np.floor(v * np.float32(1.44269504088896341) + np.float32(0.5))
    r = v - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1)
    y *= np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    y = np.float32(0) if x < np.float32(-87.3) else y
    return x if x != x else y


@_compiled("void(f4[:,::1], f4[::1], f4[::1])", fastmath=_SUMS)
def softmax(s: np.ndarray, total: np.ndarray, level: np.ndarray) -> None:
    """Overwrite s (m, d) with exp(s - top), total (m,) with its sum, level (m,) with top + log(total); top is a row's largest."""
    m, d = s.shape
    least, tops = np.float32(-3.402823466e38), np.empty(16, np.float32)
    for k in range(m):
        tops[:] = least
        for c in range(0, d - 15, 16):
            for j in range(16):  # a register's lanes
                tops[j] = s[k, c + j] if s[k, c + j] > tops[j] else tops[j]
        top = least
        for j in range(16):
            top = max(top, tops[j])
        for c in range(d - d % 16, d):
            top = s[k, c] if s[k, c] > top else top
        for c in range(d):
            s[k, c] = _exp(s[k, c] - top)
        part = np.float32(0)
        for c in range(d):
            part += s[k, c]
        total[k] = np.float32(1.175494351e-38) if part < np.float32(1.175494351e-38) else part
        level[k] = top + np.log(total[k])


@_compiled("void(f4[:,::1], f4[::1], f4[:,::1], f4[::1])", fastmath={"contract"})
def softmax_slope(p: np.ndarray, level: np.ndarray, slope: np.ndarray, delta: np.ndarray) -> None:
    """Overwrite p (m, d), scores, with exp(p - level) and slope (m, d) with (slope - delta) p; level and delta are (m,)."""
    m, d = p.shape
    for k in range(m):
        here, apart = level[k], delta[k]
        for c in range(d):
            e = _exp(p[k, c] - here)
            p[k, c] = e
            slope[k, c] = (slope[k, c] - apart) * e


@_compiled("void(f4[:,:,:,::1], i8, i8, f4[:,:,::1], f4[:,:,::1])")
def tile_inputs(x: np.ndarray, top: int, left: int, rows: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (16, T, C) with B' d B of each 4 x 4 tile d of the images, with so many zeros above and to the left.

    Args:
        x: (B, H, W, C).
        top: rows of zeros above, at most 2.
        left: columns of zeros to the left, at most 2.
        rows: (5, W + 4, C) scratch.
        out: T = B * h / 2 * w / 2 tiles, for h = H + 2 top - 2 outputs down and w across, both even.
    """
    B, H, W, C = x.shape
    down, across = (H + 2 * top - 2) // 2, (W + 2 * left - 2) // 2
    rows[:] = 0
    wide, first, flat = W * C, left * C, x.reshape(B, H, W * C)
    lines = rows.reshape(5, (W + 4) * C)
    r0, r1 = lines[0, first : first + wide], lines[1, first : first + wide]
    r2, r3 = lines[2, first : first + wide], lines[3, first : first + wide]
    nothing = lines[4, :wide]
    tile = 0
    for n in range(B):
        for i in range(down):
            y = 2 * i - top
            d0 = flat[n, y] if 0 <= y < H else nothing
            d1 = flat[n, y + 1] if 0 <= y + 1 < H else nothing
            d2 = flat[n, y + 2] if 0 <= y + 2 < H else nothing
            d3 = flat[n, y + 3] if 0 <= y + 3 < H else nothing
            for c in range(wide):
                r0[c] = d0[c] - d2[c]
            for c in range(wide):
                r1[c] = d1[c] + d2[c]
            for c in range(wide):
                r2[c] = d2[c] - d1[c]
            for c in range(wide):
                r3[c] = d1[c] - d3[c]
            for a in range(4):
                for j in range(across):
                    for c in range(C):
                        out[4 * a, tile + j, c] = rows[a, 2 * j, c] - rows[a, 2 * j + 2, c]
                    for c in range(C):
                        out[4 * a + 1, tile + j, c] = rows[a, 2 * j + 1, c] + rows[a, 2 * j + 2, c]
                    for c in range(C):
                        out[4 * a + 2, tile + j, c] = rows[a, 2 * j + 2, c] - rows[a, 2 * j + 1, c]
                    for c in range(C):
                        out[4 * a + 3, tile + j, c] = rows[a, 2 * j + 1, c] - rows[a, 2 * j + 3, c]
            tile += across


@_compiled("void(f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1])")
def untile_outputs(tiles: np.ndarray, sums: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (B, h, w, K) with A' m A of each tile m of (16, T, K); sums (4, 2, w / 2, K) is scratch."""
    B, h, w, K = out.shape
    down, across = h // 2, w // 2
    wide = across * K
    flat, lines = tiles.reshape(16, B * down, wide), sums.reshape(4, 2, wide)
    for n in range(B):
        for i in range(down):
            row = n * down + i
            for b in range(4):
                for c in range(wide):
                    lines[b, 0, c] = flat[b, row, c] + flat[4 + b, row, c] + flat[8 + b, row, c]
                for c in range(wide):
                    lines[b, 1, c] = flat[4 + b, row, c] - flat[8 + b, row, c] - flat[12 + b, row, c]
            for a in range(2):
                for j in range(across):
                    for c in range(K):
                        out[n, 2 * i + a, 2 * j, c] = sums[0, a, j, c] + sums[1, a, j, c] + sums[2, a, j, c]
                    for c in range(K):
                        out[n, 2 * i + a, 2 * j + 1, c] = sums[1, a, j, c] - sums[2, a, j, c] - sums[3, a, j, c]


@_compiled("void(f4[:,:,:,::1], f4[:,:,::1], f4[:,:,::1])")
def tile_slopes(slope: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (16, T, K) with A s A' of each 2 x 2 tile s of the slopes (B, h, w, K); rows (4, w, K) is scratch."""
    B, h, w, K = slope.shape
    down, across, wide = h // 2, w // 2, w * K
    flat, lines = slope.reshape(B, h, wide), rows.reshape(4, wide)
    tile = 0
    for n in range(B):
        for i in range(down):
            for c in range(wide):
                lines[0, c] = flat[n, 2 * i, c]
            for c in range(wide):
                lines[1, c] = flat[n, 2 * i, c] + flat[n, 2 * i + 1, c]
            for c in range(wide):
                lines[2, c] = flat[n, 2 * i, c] - flat[n, 2 * i + 1, c]
            for c in range(wide):
                lines[3, c] = -flat[n, 2 * i + 1, c]
            for a in range(4):
                for j in range(across):
                    for c in range(K):
                        out[4 * a, tile + j, c] = rows[a, 2 * j, c]
                    for c in range(K):
                        out[4 * a + 1, tile + j, c] = rows[a, 2 * j, c] + rows[a, 2 * j + 1, c]
                    for c in range(K):
                        out[4 * a + 2, tile + j, c] = rows[a, 2 * j, c] - rows[a, 2 * j + 1, c]
                    for c in range(K):
                        out[4 * a + 3, tile + j, c] = -rows[a, 2 * j + 1, c]
            tile += across
