"""The gated delta rule on the CPU, in torch: its convolution, its gates, and the rule over the tokens of a chunk.

The rule (Yang et al. 2024, arXiv 2412.06464) keeps a state S, [key_dim, value_dim] a head, and for each token computes
`S <- e^g S;  S <- S + beta k (v - S^T k)^T;  o = S^T q`. Here S stays as it was at the start of the chunk of 64 tokens,
and with G, the sum of g since then, each token adds a key and a corrected value v':

    v'_i = beta_i (v_i - e^{G_i} S^T k_i - sum_{j<i} e^{G_i-G_j} (k_i.k_j) v'_j)
    o_i  = e^{G_i} S^T q_i + sum_{j<=i} e^{G_i-G_j} (q_i.k_j) v'_j

`fold` turns a full chunk into the state at the start of the next.

A token's bits depend neither on how the tokens are cut into calls nor on what lies above the position:

- Tiles of 16 tokens lie at multiples of 16. A row takes the tiles before its own in one product and the tokens of its
  own in another, so the length of each sum follows from the row's place alone. What a row must not see weighs zero.
- Products have a multiple of four rows, two for each token: fewer than four take another path in the matrix library,
  with other bits. Only the corrections come one at a time, always.
- exp, rsqrt and log1p give an element the same bits wherever it lies. torch's sigmoid, silu and softplus do not: their
  loops end in another path. So they are spelled out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.backends.cpu import one_plus_exp_of_minus, silu

TILE_TOKENS = 16
_KEY_EPSILON = 1e-6
_FAINTEST = -80.0
"""The least logarithm of a decay: e^-80, 2e-35, adds nothing to a sum in which the newest token weighs one."""
QUERY, KEY = 0, 1
# For each token of a tile, and one to spare, its query's row and its key's: which of the tile's tokens it must not see.
# A query sees its own token, a key what is before.
_UNSEEN = torch.stack(
    [torch.ones(TILE_TOKENS + 1, TILE_TOKENS, dtype=torch.bool).triu(1 - which) for which in (QUERY, KEY)], dim=1
).flatten(0, 1)


def padded(count: int) -> int:
    """Rows that `delta_rule` needs for some tokens: even, and one to spare, so that any tile's can be even as well."""
    return _even(count + 1)


def convolve(inputs: Tensor, new: Tensor, weight: Tensor, position: int, count: int) -> Tensor:
    """The causal convolution of each channel by itself, and silu. Keeps the new inputs in the ring.

    Args:
        inputs: [slots, channels], token t's at t % slots; those before the position are read.
        new: [rows, channels], in the ring's type; they do not pass the ring's end.
        weight: float32[channels, kernel], the newest token's last. Fastest where the weights for an age lie together.
        position: Of the first row.
        count: Tokens; rows beyond are padding.

    Returns:
        float32[padded(count), channels].
    """
    slots, before = len(inputs), weight.shape[1] - 1
    seen = weight.new_zeros(before + count, len(weight))
    for place in range(max(0, before - position), before):
        seen[place] = inputs[(position - before + place) % slots]
    seen[before:] = new[:count]
    inputs[position % slots :][:count] = new[:count]
    mixed = weight.new_empty(padded(count), len(weight))
    mixed[count:] = 0
    oldest, *younger = weight.unbind(1)
    # Some rows at a time, which stay in the cache.
    for first in range(0, count, TILE_TOKENS):
        last = min(first + TILE_TOKENS, count)
        total = seen[first:last] * oldest
        for age, part in enumerate(younger, 1):
            total.addcmul_(seen[first + age : last + age], part)
        torch.div(total, one_plus_exp_of_minus(total), out=mixed[first:last])
    return mixed


def normalise(pairs: Tensor) -> Tensor:
    """Queries and keys of length one, the queries scaled by key_dim^-0.5 besides.

    `x * rsqrt(sum x^2 + 1e-6)`, written as a root-mean-square norm.

    Args:
        pairs: float32[rows, query|key, key_heads, key_dim].
    """
    width = pairs.shape[-1]
    normed = functional.rms_norm(pairs, (width,), None, _KEY_EPSILON / width)
    normed[:, QUERY] *= 1 / width
    normed[:, KEY] *= width**-0.5
    return normed


def gates(beta: Tensor, alpha: Tensor, decay: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """How strongly each token is written, and the logarithm of how much is kept at it.

    Args:
        beta: float32[rows, value_heads].
        alpha: As `beta`.
        decay: float32[value_heads], -exp(A_log).
        bias: float32[value_heads].

    Returns:
        sigmoid(beta) and decay * softplus(alpha + bias).
    """
    shifted = alpha + bias
    softplus = shifted.abs().neg_().exp_().log1p_().add_(shifted.clamp_min(0))
    return one_plus_exp_of_minus(beta).reciprocal_(), softplus.mul_(decay)


def gated_norm(read: Tensor, gate: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`read * rsqrt(mean read^2 + epsilon) * weight * silu(gate)`, head by head, float32[rows, value_heads, value_dim].

    Args:
        read: float32[rows, value_heads, value_dim].
        gate: As `read`, of any type.
        weight: float32[value_dim].
        epsilon: Keeps the root from zero.
    """
    return functional.rms_norm(read, weight.shape, weight, epsilon).mul_(silu(gate))


def delta_rule(
    base: Tensor,
    keys: Tensor,
    values: Tensor,
    decay: Tensor,
    pairs: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    offset: int,
    count: int,
) -> Tensor:
    """Read tokens of one chunk, and add them to it.

    Args:
        base: float32[value_heads, key_dim, value_dim], the state at the start of the chunk.
        keys: float32[key_heads, 64, key_dim], the chunk's keys; rows below `offset` are read, `count` are written.
        values: float32[value_heads, 64, value_dim], its corrected values, likewise.
        decay: float64[value_heads, 64], its sums of `log_decay`, likewise.
        pairs: float32[padded(count), query|key, key_heads, key_dim], normalised. Value head h reads key head
            h // (value_heads / key_heads).
        value: float32[padded(count), value_heads, value_dim].
        log_decay: float32[rows, value_heads], g.
        beta: float32[rows, value_heads].
        offset: Of the first row in the chunk.
        count: Tokens; rows beyond are padding.

    Returns:
        float32[rows, value_heads, value_dim], zero where padded.
    """
    heads, _, width = values.shape
    end = offset + count
    keys[:, offset:end] = pairs[:count, KEY].transpose(0, 1)
    sums = _decay_sums(log_decay, decay, offset, count)
    asking = pairs.permute(2, 0, 1, 3).flatten(1, 2)
    by_value = asking.unsqueeze(1).expand(-1, heads // len(keys), -1, -1).flatten(0, 1)
    recalled = torch.bmm(by_value, base)
    recalled.view(heads, -1, 2, width).mul_(_power(sums).view(heads, -1, 1, 1))
    strength = beta.unsqueeze(2)
    read = value.new_empty(len(beta), heads, width)
    read[count:] = 0
    for tile in range(offset - offset % TILE_TOKENS, end, TILE_TOKENS):
        first, last = max(tile, offset), min(tile + TILE_TOKENS, end)
        own = slice(first - offset, last - offset)
        even = slice(own.start, own.start + _even(last - first))
        twice = slice(2 * even.start, 2 * even.stop)
        weights = _weights(asking[:, twice], sums[:, even], keys, decay, tile + TILE_TOKENS)
        near = weights[..., tile:]
        near.masked_fill_(_UNSEEN[2 * (first - tile) :][: near.shape[1]], 0.0)
        total = recalled[:, twice]
        if tile:
            total = torch.baddbmm(total, weights[..., :tile], values[:, :tile])
        of_queries, of_keys = (slice(which, 2 * (last - first), 2) for which in (QUERY, KEY))
        right = (value[own] - total[:, of_keys].transpose(0, 1)).mul_(strength[own])
        lower = near[:, of_keys].transpose(0, 1) * strength[own]
        around = values[:, tile : tile + TILE_TOKENS]
        _correct(right, lower, around, values[:, first:last])
        total = torch.baddbmm(total, near, around)
        read[own] = total[:, of_queries].transpose(0, 1)
    return read


def fold(base: Tensor, keys: Tensor, values: Tensor, decay: Tensor, target: Tensor) -> None:
    """Write the state at the start of the next chunk, `e^{G_63} S + sum_j e^{G_63-G_j} k_j v'_j^T`.

    Args:
        base: As `delta_rule` takes it.
        keys: As `delta_rule` takes it, all 64 rows live.
        values: Likewise.
        decay: Likewise.
        target: float32[value_heads, key_dim, value_dim], other memory than `base`.
    """
    newest = decay[:, -1:]
    left = _power(newest - decay).view(len(keys), -1, *decay.shape[1:], 1)
    kept = (keys.unsqueeze(1) * left).flatten(0, 1)
    torch.mul(base, _power(newest).unsqueeze(2), out=target)
    target.baddbmm_(kept.transpose(1, 2), values)


def _decay_sums(log_decay: Tensor, decay: Tensor, offset: int, count: int) -> Tensor:
    """The sums of `log_decay` since the start of the chunk, float64[value_heads, padded(count)]; keeps them.

    Where padded the last one stands again.
    """
    sums = decay.new_zeros(len(decay), padded(count))
    sums[:, :count] = log_decay[:count].t()
    if offset:
        # cumsum adds one after the other, so it goes on as a longer call would have.
        sums[:, 0] += decay[:, offset - 1]
    sums.cumsum_(1)
    decay[:, offset : offset + count] = sums[:, :count]
    return sums


def _weights(asking: Tensor, sums: Tensor, keys: Tensor, decay: Tensor, width: int) -> Tensor:
    """What queries and keys x_i take of each of the chunk's first `width` tokens, `e^{G_i-G_j} (x_i.k_j)`.

    Args:
        asking: float32[key_heads, 2 * rows, key_dim].
        sums: float64[value_heads, rows].
        keys: As `delta_rule` takes it.
        decay: Likewise.
        width: How many.

    Returns:
        float32[value_heads, 2 * rows, width].
    """
    heads, rows = sums.shape
    # Copied first: the product reads across the keys, which is slow where they are not in the cache yet.
    products = torch.bmm(asking, keys[:, :width].clone(memory_format=torch.contiguous_format).transpose(1, 2))
    # In float64 up to the difference: far into a chunk the sums are large, and their differences are not.
    gaps = _power(sums.unsqueeze(2) - decay[:, :width].unsqueeze(1))
    weights = products.view(len(keys), 1, rows, 2, width) * gaps.view(len(keys), -1, rows, 1, width)
    return weights.view(heads, 2 * rows, width)


def _correct(right: Tensor, lower: Tensor, tile: Tensor, targets: Tensor) -> None:
    """Solve for the corrected values of a tile's tokens, one after the other.

    Args:
        right: float32[tokens, value_heads, value_dim], what they would be without the tile's earlier ones; consumed.
        lower: float32[tokens, value_heads, 16], what each takes of the tile's tokens.
        tile: float32[value_heads, 16, value_dim], the tile's corrected values.
        targets: float32[value_heads, tokens, value_dim], where theirs go, a part of `tile`.
    """
    rows = (right.unsqueeze(2).unbind(0), lower.unsqueeze(2).unbind(0), targets.unsqueeze(2).unbind(1))
    for one, taken, target in zip(*rows, strict=True):
        target.copy_(one.baddbmm_(taken, tile, alpha=-1))


def _power(exponent: Tensor) -> Tensor:
    """e to the power of float64, in float32. Exponents above zero belong to what is not seen.

    Results that are infinite, zero or subnormal would take the library's exp ten to thirty times as long.
    """
    return exponent.float().clamp_(_FAINTEST, 0).exp_()


def _even(rows: int) -> int:
    return rows + rows % 2
