"""Steps of layers fused for a GPU, as twins of numpy's passes: one kernel where numpy takes up to ten passes over memory.

Letters: m rows, d numbers of a row; all float32 and C-contiguous. A block takes a row; sums go by one fixed tree over the threads
of a block, so that the same GPU gives the same bits each time. Their numbers differ from numpy's in the last digits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hpcml.arrays.device import Array, namespace, on_device

THREADS = 256
"""Threads of a block, a power of two: sums halve it."""

COLUMNS, PARTS = 32, 64
"""Columns that a block sums together, one warp wide, and into how many runs the rows are cut to fill a device."""

SOURCE = r"""
#define FULL 256
__device__ float together(float value, float* all, bool sum) {
  __syncthreads();
  all[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float other = all[threadIdx.x + half];
      all[threadIdx.x] = sum ? all[threadIdx.x] + other : fmaxf(all[threadIdx.x], other);
    }
    __syncthreads();
  }
  return all[0];
}

extern "C" __global__ void layer_norm(long long d, const float* x_, const float* gain, const float* bias, float epsilon,
                                      float* out_, float* mean, float* scale) {
  __shared__ float all[FULL];
  const float* x = x_ + blockIdx.x * d;
  float* out = out_ + blockIdx.x * d;
  float part = 0;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) part += x[c];
  const float centre = together(part, all, true) / d;
  part = 0;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) part += (x[c] - centre) * (x[c] - centre);
  const float r = 1 / sqrtf(together(part, all, true) / d + epsilon);
  for (long long c = threadIdx.x; c < d; c += blockDim.x) out[c] = (x[c] - centre) * r * gain[c] + bias[c];
  if (threadIdx.x == 0) { mean[blockIdx.x] = centre; scale[blockIdx.x] = r; }
}

extern "C" __global__ void layer_norm_slope(long long d, float* slope_, const float* x_, const float* mean, const float* scale,
                                            const float* gain) {
  __shared__ float all[FULL];
  float* slope = slope_ + blockIdx.x * d;
  const float* x = x_ + blockIdx.x * d;
  const float centre = mean[blockIdx.x], r = scale[blockIdx.x];
  float plain = 0, along = 0;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) {
    const float g = slope[c] * gain[c];
    plain += g;
    along += g * ((x[c] - centre) * r);
  }
  plain = together(plain, all, true) / d;
  along = together(along, all, true) / d;
  for (long long c = threadIdx.x; c < d; c += blockDim.x)
    slope[c] = r * (slope[c] * gain[c] - plain - (x[c] - centre) * r * along);
}

extern "C" __global__ void layer_norm_columns(long long m, long long d, long long rows, const float* slope, const float* x,
                                              const float* mean, const float* scale, float* by_gain, float* by_bias) {
  __shared__ float gains[FULL], biases[FULL];
  const long long column = blockIdx.x * 32 + threadIdx.x % 32;
  const long long first = blockIdx.y * rows, stop = first + rows < m ? first + rows : m;
  float gain = 0, bias = 0;
  if (column < d)
    for (long long k = first + threadIdx.x / 32; k < stop; k += blockDim.x / 32) {
      const float s = slope[k * d + column];
      gain += s * ((x[k * d + column] - mean[k]) * scale[k]);
      bias += s;
    }
  gains[threadIdx.x] = gain;
  biases[threadIdx.x] = bias;
  __syncthreads();
  if (threadIdx.x < 32 && column < d) {
    for (unsigned lane = threadIdx.x + 32; lane < blockDim.x; lane += 32) { gain += gains[lane]; bias += biases[lane]; }
    by_gain[blockIdx.y * d + column] = gain;
    by_bias[blockIdx.y * d + column] = bias;
  }
}

extern "C" __global__ void softmax(long long d, float* s_, float* total, float* level) {
  __shared__ float all[FULL];
  float* s = s_ + blockIdx.x * d;
  float top = -3.402823466e38f;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) top = fmaxf(top, s[c]);
  top = together(top, all, false);
  float part = 0;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) { s[c] = expf(s[c] - top); part += s[c]; }
  part = together(part, all, true);
  const float sum = part < 1.175494351e-38f ? 1.175494351e-38f : part;  // what is no number stays none
  if (threadIdx.x == 0) { total[blockIdx.x] = sum; level[blockIdx.x] = top + logf(sum); }
}

extern "C" __global__ void softmax_slope(long long d, float* p_, const float* level, float* slope_, const float* delta) {
  float* p = p_ + blockIdx.x * d;
  float* slope = slope_ + blockIdx.x * d;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) {
    p[c] = expf(p[c] - level[blockIdx.x]);
    slope[c] = (slope[c] - delta[blockIdx.x]) * p[c];
  }
}

extern "C" __global__ void cross_entropy(long long d, float* x_, const long long* target, const float* weights, float* losses) {
  __shared__ float all[FULL];
  float* x = x_ + blockIdx.x * d;
  const long long own = target[blockIdx.x];
  float top = -3.402823466e38f;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) top = fmaxf(top, x[c]);
  top = together(top, all, false);
  const float chosen = own >= 0 && own < d ? x[own] - top : nanf("");
  float part = 0;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) part += expf(x[c] - top);
  const float sum = together(part, all, true), weight = weights[blockIdx.x];
  for (long long c = threadIdx.x; c < d; c += blockDim.x)
    x[c] = weight * (expf(x[c] - top) / sum - (c == own ? 1.0f : 0.0f));
  if (threadIdx.x == 0) losses[blockIdx.x] = weight * (logf(sum) - chosen);
}

extern "C" __global__ void order_equal(long long m, const long long* places, long long* sorted, long long* order) {
  __shared__ int counts[FULL];
  const long long own = blockIdx.x, place = places[own];
  int before = 0;
  for (long long k = threadIdx.x; k < m; k += blockDim.x) before += places[k] < place || (places[k] == place && k < own);
  counts[threadIdx.x] = before;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) counts[threadIdx.x] += counts[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) { sorted[counts[0]] = place; order[counts[0]] = own; }
}

extern "C" __global__ void sum_equal(long long m, long long d, const long long* places, const long long* order,
                                     const float* slope, float* grad) {
  const long long first = blockIdx.x, place = places[first];
  if (first > 0 && places[first - 1] == place) return;
  for (long long c = threadIdx.x; c < d; c += blockDim.x) {
    float sum = 0;
    for (long long k = first; k < m && places[k] == place; k++) sum += slope[order[k] * d + c];
    grad[place * d + c] = sum;
  }
}

extern "C" __global__ void gelu(long long n, float* x, float* out) {
  const float a = 0.7978845608028654f, b = 0.044715f;
  for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)blockDim.x * gridDim.x) {
    const float v = x[k], h = (1 + tanhf(a * (v + b * v * v * v))) / 2;
    out[k] = v * h;
    x[k] = h + 2 * v * h * (1 - h) * a * (1 + 3 * b * v * v);
  }
}

extern "C" __global__ void dropout(long long n, const float* x, const unsigned char* mask, float factor, float* kept, float* out) {
  for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)blockDim.x * gridDim.x) {
    kept[k] = mask[k] ? factor : 0.0f;
    out[k] = x[k] * kept[k];
  }
}

extern "C" __global__ void bfloat16(long long n, const unsigned* x, unsigned short* out) {
  for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)blockDim.x * gridDim.x) {
    const unsigned v = x[k];
    out[k] = (v & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (v + 0x7fffu + ((v >> 16) & 1u)) >> 16;
  }
}

extern "C" __global__ void relu_slope(long long n, float* slope, const float* out) {
  for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < n; k += (long long)blockDim.x * gridDim.x)
    slope[k] = out[k] > 0 ? slope[k] : slope[k] * 0.0f;
}
"""
"""All kernels; `slope * 0` keeps what is not finite, as numpy's product with a mask does."""


def fits(*arrays: Array) -> bool:
    """Return whether all arrays are such as these kernels take: on a device, float32, C-contiguous."""
    return all(on_device(x) and x.dtype == np.float32 and x.flags.c_contiguous for x in arrays)


def layer_norm(x: Array, gain: Array, bias: Array, epsilon: float, out: Array, mean: Array, scale: Array) -> None:
    """Overwrite out (m, d) with the normalised positions, mean (m, 1) and scale (m, 1) with what they were shifted and scaled by."""
    m, d = x.shape
    launch("layer_norm", (m, 1), np.int64(d), x, gain, bias, np.float32(epsilon), out, mean, scale)


def layer_norm_slope(
    slope: Array, x: Array, mean: Array, scale: Array, gain: Array, by_gain: Array, by_bias: Array, scratch: Array
) -> None:
    """Overwrite slope (m, d) with the input's, by_gain (d,) and by_bias (d,) with the parameters', scratch (2, PARTS, d) with anything."""
    (m, d), xp = x.shape, namespace(x)
    rows = max(1, -(-m // PARTS))
    parts = -(-m // rows)
    gains, biases = scratch[0, :parts], scratch[1, :parts]
    columns = (-(-d // COLUMNS), parts)
    launch("layer_norm_columns", columns, np.int64(m), np.int64(d), np.int64(rows), slope, x, mean, scale, gains, biases)
    xp.sum(gains, axis=0, out=by_gain)
    xp.sum(biases, axis=0, out=by_bias)
    launch("layer_norm_slope", (m, 1), np.int64(d), slope, x, mean, scale, gain)


def softmax(s: Array, total: Array, level: Array) -> None:
    """Overwrite s (m, d) with exp(s - top), total (m,) with its sum, level (m,) with top + log(total); top is a row's largest."""
    launch("softmax", (len(s), 1), np.int64(s.shape[1]), s, total, level)


def softmax_slope(p: Array, level: Array, slope: Array, delta: Array) -> None:
    """Overwrite p (m, d), scores, with exp(p - level) and slope (m, d) with (slope - delta) p; level and delta are (m,)."""
    launch("softmax_slope", (len(p), 1), np.int64(p.shape[1]), p, level, slope, delta)


def cross_entropy(x: Array, target: Array, weights: Array, losses: Array) -> None:
    """Overwrite losses (m,) with the rows' weighted losses and x (m, d) with slopes; a target (m,) int64 outside 0 to d - 1 costs NaN."""
    launch("cross_entropy", (len(x), 1), np.int64(x.shape[1]), x, target, weights, losses)


def sum_equal(places: Array, slope: Array, grad: Array, scratch: Array) -> None:
    """Overwrite the rows of grad (r, d) that places (m,) name with the sums, in order, of slope's rows (m, d) of equal places.

    Each place counts those before it, m^2 comparisons: under a millisecond for 65,536 tokens, where CuPy's sort takes memory and, up to
    its version 13, lets the host wait for the device. Places, and scratch (2, m) for their order, are int64.
    """
    m = np.int64(len(places))
    launch("order_equal", (len(places), 1), m, places, scratch[0], scratch[1])
    launch("sum_equal", (len(places), 1), m, np.int64(grad.shape[1]), scratch[0], scratch[1], slope, grad)


def gelu(x: Array, out: Array) -> None:
    """Overwrite out (m,) with GELU by tanh of x, and x (m,) with its derivative there."""
    launch("gelu", blocks(x.size), np.int64(x.size), x, out)


def dropout(x: Array, mask: Array, factor: float, kept: Array, out: Array) -> None:
    """Overwrite kept with factor where mask (bool) is set and 0 elsewhere, and out with x times kept; all of one size."""
    launch("dropout", blocks(x.size), np.int64(x.size), x, mask, np.float32(factor), kept, out)


def relu_slope(slope: Array, out: Array) -> None:
    """Overwrite slope with zero where out is not positive."""
    launch("relu_slope", blocks(slope.size), np.int64(slope.size), slope, out)


def launch(name: str, grid: tuple[int, int], *arguments: Any) -> None:
    """Launch a kernel of SOURCE over a grid of blocks on the current stream; nothing where there are no rows."""
    if grid[0] and grid[1]:
        _kernel(name)(grid, (THREADS,), arguments)


@cache
def _kernel(name: str) -> Any:
    import cupy

    return cupy.RawKernel(SOURCE, name)


def blocks(size: int) -> tuple[int, int]:
    """Return the grid of a kernel that goes over `size` numbers."""
    return min(-(-size // THREADS), 1 << 16), 1
