"""Passes over memory of a decoder layer on a CPU, each as one loop: RMSNorm, SwiGLU, softmax, moving and turning heads.

PyTorch writes each of them as several operations, and with a processor that multiplies matrices as fast as one with
AMX these take most of a pass. numba compiles them for the processor they run on, once: the result is kept on disk.
They read and write bfloat16 or float32, compute in float32, and round each result once. One call is one thread's:
`lanes` run side by side, and the interpreter's lock is free meanwhile.

Tensors come as numpy arrays, bfloat16 as its 16 bits (`array`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import float32, njit, types, uint32
from numba.extending import intrinsic, overload
from torch import Tensor

# What may be reordered or contracted; NaN and infinity stay what they are, since a loss that is NaN must be seen.
_MATH = {"reassoc", "contract", "arcp", "nsz"}
_kernel = njit(nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
_inlined = njit(nogil=True, fastmath=_MATH, error_model="numpy", inline="always")


def array(x: Tensor) -> np.ndarray[Any, Any]:
    """A tensor's memory as numpy sees it."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@intrinsic
def _float_of(typing: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return float32(uint32), generate


@intrinsic
def _bits_of(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.uint32))

    return uint32(float32), generate


def _up(stored: Any) -> Any:
    raise NotImplementedError("compiled only")


@overload(_up, inline="always")
def _up_of(stored: Any) -> Any:
    if stored == types.uint16:

        def widened(stored: Any) -> Any:
            return _float_of(uint32(stored) << uint32(16))

        return widened

    def itself(stored: Any) -> Any:
        return stored

    return itself


def _put(row: Any, at: Any, value: Any) -> Any:
    raise NotImplementedError("compiled only")


@overload(_put, inline="always")
def _put_in(row: Any, at: Any, value: Any) -> Any:
    if row.dtype == types.uint16:

        def to_nearest_even(row: Any, at: Any, value: Any) -> Any:
            bits = _bits_of(float32(value))
            row[at] = np.uint16((bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16))

        return to_nearest_even

    def as_it_is(row: Any, at: Any, value: Any) -> Any:
        row[at] = value

    return as_it_is


@_inlined
def _exp(x: Any) -> Any:
    """e^x to the last bits of float32 (Cephes' expf), as a loop's vectors compute it."""
    x = float32(-87.0) if x < float32(-87.0) else x
    x = float32(88.0) if x > float32(88.0) else x
    power = np.floor(x * float32(1.44269504) + float32(0.5))
    rest = x - power * float32(0.693359375) + power * float32(2.12194440e-4)
    sum_ = float32(1.9875691500e-4)
    sum_ = sum_ * rest + float32(1.3981999507e-3)
    sum_ = sum_ * rest + float32(8.3334519073e-3)
    sum_ = sum_ * rest + float32(4.1665795894e-2)
    sum_ = sum_ * rest + float32(1.6666665459e-1)
    sum_ = sum_ * rest + float32(5.0000001201e-1)
    sum_ = sum_ * rest * rest + rest + float32(1.0)
    return sum_ * _float_of(uint32(np.int32(power) + np.int32(127)) << uint32(23))


@_inlined
def _most(row: Any, count: Any) -> Any:
    """The largest of a row's first entries. A NaN is above all numbers, or with its sign set below: what is computed
    from the row's entries is NaN either way."""
    # Floats are ordered as their bits are, but for the sign: a loop's vectors have no maximum that minds NaN.
    key = np.int32(-(2**31))
    for j in range(count):
        bits = np.int32(_bits_of(float32(_up(row[j]))))
        key = max(key, np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    return _float_of(uint32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@_inlined
def _normed(row: Any, weight: Any, epsilon: Any, into: Any) -> Any:
    """RMSNorm of a row; what it was multiplied by."""
    size = len(row)
    squares = float32(0)
    for j in range(size):
        squares += _up(row[j]) * _up(row[j])
    scale = float32(1) / np.sqrt(squares / float32(size) + float32(epsilon))
    for j in range(size):
        _put(into, j, _up(row[j]) * scale * _up(weight[j]))
    return scale


@_kernel
def rms_norm(x: Any, weight: Any, epsilon: Any, out: Any, inverse: Any) -> None:
    """RMSNorm (Zhang and Sennrich 2019) of the rows of x (n, size): `out`, and `inverse` (n,) of their sizes."""
    for i in range(len(x)):
        inverse[i] = _normed(x[i], weight, epsilon, out[i])


@_kernel
def add_rms_norm(x: Any, added: Any, weight: Any, epsilon: Any, total: Any, out: Any, inverse: Any) -> None:
    """`total` = x + added, and its RMSNorm as `rms_norm` gives it."""
    rows, size = x.shape
    for i in range(rows):
        row, more, sums = x[i], added[i], total[i]
        for j in range(size):
            _put(sums, j, _up(row[j]) + _up(more[j]))
        inverse[i] = _normed(sums, weight, epsilon, out[i])


@_kernel
def rms_norm_back(dy: Any, x: Any, weight: Any, inverse: Any, dx: Any, rounded: Any) -> None:
    """To `dx` adds the gradient of x through `rms_norm`, whose output has the gradient `dy`; `rounded` is a copy."""
    rows, size = x.shape
    for i in range(rows):
        given, row, into, copy, scale = dy[i], x[i], dx[i], rounded[i], inverse[i]
        along = float32(0)
        for j in range(size):
            along += _up(given[j]) * _up(weight[j]) * _up(row[j])
        along *= scale * scale / float32(size)
        for j in range(size):
            _put(into, j, _up(into[j]) + (_up(given[j]) * _up(weight[j]) - _up(row[j]) * along) * scale)
        for j in range(size):
            _put(copy, j, _up(into[j]))


@_kernel
def swiglu(both: Any, size: Any, out: Any) -> None:
    """SwiGLU (Shazeer 2020), silu(gate) * up, of gate and up side by side, the first 2 * size entries of each row."""
    for i in range(len(out)):
        gate, up, into = both[i][:size], both[i][size : 2 * size], out[i]
        for j in range(size):
            value = _up(gate[j])
            _put(into, j, value / (float32(1) + _exp(-value)) * _up(up[j]))


@_kernel
def swiglu_back(dy: Any, both: Any) -> None:
    """In place of gate and up their gradients, where those of `swiglu`'s output are `dy` (n, size)."""
    rows, size = dy.shape
    for i in range(rows):
        given, gate, up = dy[i], both[i][:size], both[i][size : 2 * size]
        for j in range(size):
            value, dvalue, other = _up(gate[j]), _up(given[j]), _up(up[j])
            share = float32(1) / (float32(1) + _exp(-value))
            _put(up, j, dvalue * value * share)
            _put(gate, j, dvalue * other * share * (float32(1) + value * (float32(1) - share)))


@_kernel
def softmax(scores: Any, looks_at: Any) -> None:
    """In place of scores (rows * heads, shared * width, length) their softmax over the first `looks_at` (rows, width)
    keys of each query, 0 for the others."""
    pairs, queries, length = scores.shape
    rows, width = looks_at.shape
    shares = np.empty(length, np.float32)
    for pair in range(pairs):
        for query in range(queries):
            row, seen = scores[pair, query], looks_at[pair // (pairs // rows), query % width]
            most = _most(row, seen)
            for j in range(seen):
                shares[j] = _exp(_up(row[j]) - most)
            total = float32(0)
            for j in range(seen):
                total += shares[j]
            total = float32(1) / total
            for j in range(seen):
                _put(row, j, shares[j] * total)
            row[seen:] = 0


@_kernel
def softmax_back(dweights: Any, weights: Any, looks_at: Any) -> None:
    """In place of the gradients of `softmax`'s output those of its scores."""
    pairs, queries, _ = weights.shape
    rows, width = looks_at.shape
    for pair in range(pairs):
        for query in range(queries):
            given, row = dweights[pair, query], weights[pair, query]
            seen = looks_at[pair // (pairs // rows), query % width]
            along = float32(0)
            for j in range(seen):
                along += _up(given[j]) * _up(row[j])
            for j in range(seen):
                _put(given, j, (_up(given[j]) - along) * _up(row[j]))
            given[seen:] = 0


@_kernel
def cross_entropy(logits: Any, targets: Any, losses: Any) -> None:
    """Into `losses` (n,) the negative log-likelihood of each row's target among `logits` (n, vocabulary), and in place
    of the logits its gradient: their softmax, less one at the target."""
    rows, size = logits.shape
    shares = np.empty(size, np.float32)
    for i in range(rows):
        row = logits[i]
        most = _most(row, size)
        for j in range(size):
            shares[j] = _exp(_up(row[j]) - most)
        total = float32(0)
        for j in range(size):
            total += shares[j]
        target = targets[i]
        losses[i] = np.log(total) - (_up(row[target]) - most)
        scale = float32(1) / total
        for j in range(size):
            _put(row, j, shares[j] * scale)
        _put(row, target, shares[target] * scale - float32(1))


@_kernel
def take_heads(entries: Any, sources: Any, cos: Any, sin: Any, heads: Any, scale: Any, out: Any) -> None:
    """Rows `sources` of `entries` (tokens * heads of each, size) into `out`.

    `heads`: of each token's, how many are queries, and how many of queries and keys, which come before its values.
    Both are turned by their token's angle, whose `cos` and `sin` (tokens, size / 2) are given, as rotary embedding
    does (Su et al. 2021); queries are multiplied by `scale`.
    """
    each, size = len(entries) // len(cos), entries.shape[1]
    half = size // 2
    first, second = np.empty(half, np.float32), np.empty(half, np.float32)
    for i in range(len(sources)):
        token, head = sources[i] // each, sources[i] % each
        row, into = entries[sources[i]], out[i]
        if head >= heads[1]:
            for j in range(size):
                into[j] = row[j]
            continue
        factor = float32(scale) if head < heads[0] else float32(1)
        c, s, left, right = cos[token], sin[token], into[:half], into[half:]
        for j in range(half):
            first[j] = _up(row[j]) * factor
        for j in range(half):
            second[j] = _up(row[half + j]) * factor
        for j in range(half):
            _put(left, j, first[j] * c[j] - second[j] * s[j])
        for j in range(half):
            _put(right, j, second[j] * c[j] + first[j] * s[j])


@_kernel
def give_heads_back(
    gradients: Any, starts: Any, places: Any, cos: Any, sin: Any, heads: Any, scale: Any, out: Any
) -> None:
    """To `out` (tokens, heads of each * size or more) the gradients of `take_heads`' entries.

    Entry i was taken to the rows `places[starts[i] : starts[i + 1]]`, whose gradients add up.
    """
    entries, size = len(starts) - 1, gradients.shape[1]
    each = entries // len(cos)
    half = size // 2
    sums = np.empty(size, np.float32)
    for i in range(entries):
        sums[:] = 0
        for place in places[starts[i] : starts[i + 1]]:
            row = gradients[place]
            for j in range(size):
                sums[j] += _up(row[j])
        token, head = i // each, i % each
        into = out[token][head * size : (head + 1) * size]
        if head >= heads[1]:
            for j in range(size):
                _put(into, j, sums[j])
            continue
        factor = float32(scale) if head < heads[0] else float32(1)
        first, second, c, s, left, right = sums[:half], sums[half:], cos[token], sin[token], into[:half], into[half:]
        for j in range(half):
            _put(left, j, (first[j] * c[j] + second[j] * s[j]) * factor)
        for j in range(half):
            _put(right, j, (second[j] * c[j] - first[j] * s[j]) * factor)


@_kernel
def take_rows(x: Any, sources: Any, out: Any) -> None:
    """Rows `sources` of x (n, size) into `out`; zeros where a source is n."""
    for i in range(len(sources)):
        if sources[i] < len(x):
            out[i] = x[sources[i]]
        else:
            out[i] = 0


@_kernel
def put_heads(x: Any, sources: Any, out: Any) -> None:
    """Rows `sources` of x (n, size), as many for each token, side by side into `out` (tokens, all their sizes or
    more)."""
    tokens, size = len(out), x.shape[1]
    each = len(sources) // tokens
    for token in range(tokens):
        row = out[token]
        for head in range(each):
            row[head * size : (head + 1) * size] = x[sources[token * each + head]]
