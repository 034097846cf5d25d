# SPDX-License-Identifier: MIT
"""The DeepSeek-V3 architecture in PyTorch, small enough to read: MLA, MoE with group-limited
routing and a correction bias, one multi-token-prediction (MTP) layer. DeepSeek-V3 paper,
arXiv 2412.19437, section 2; names follow the released checkpoints.

One class serves training (packed segments, bf16 autocast), evaluation and goldens (float32).
The shared expert is stored as the last row of the expert stacks with the fixed weight 1: at this
size all experts are computed and the unchosen ones weighted by 0, which is one matrix product.

Letters in shapes: N tokens, D hidden_size, H heads, E routed experts, Fm moe_intermediate_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The two norms inside MLA are built without an eps argument in the released modelling code.
MLA_NORM_EPS = 1e-6


def yarn_inv_freq(config: dict) -> list[float]:
    """Rotary frequencies with YaRN, float64, one per pair of dimensions."""
    width, base, scaling = config["qk_rope_head_dim"], config["rope_theta"], config["rope_scaling"]

    def correction(rotations: float) -> float:
        original = scaling["original_max_position_embeddings"]
        return width * math.log(original / (2 * math.pi * rotations)) / (2 * math.log(base))

    low = max(math.floor(correction(scaling["beta_fast"])), 0)
    high = min(math.ceil(correction(scaling["beta_slow"])), width - 1)
    span = high - low if high > low else 0.001
    freqs = []
    for i in range(width // 2):
        ramp = min(max((i - low) / span, 0.0), 1.0)
        freqs.append(base ** (-2 * i / width) * (ramp / scaling["factor"] + 1 - ramp))
    return freqs


def yarn_softmax_scale(config: dict) -> float:
    """1/sqrt(query-key width), times the square of YaRN's m(mscale_all_dim)."""
    scaling = config["rope_scaling"]
    m = 0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1
    return (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5 * m * m


def check_yarn() -> None:
    """The published numbers of DeepSeek-V3 itself."""
    v3 = {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "rope_theta": 10000,
          "rope_scaling": {"factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale_all_dim": 1.0,
                           "original_max_position_embeddings": 4096}}
    freqs = yarn_inv_freq(v3)
    for i, want in ((10, 0.0562341325), (16, 0.0055), (31, 3.33380358e-06)):
        assert math.isclose(freqs[i], want, rel_tol=1e-8), (i, freqs[i], want)
    assert math.isclose(yarn_softmax_scale(v3), 0.135233779, rel_tol=1e-8)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved rotation of pairs (2i, 2i+1) of x [N, heads, r] by cos, sin [N, r/2], in f32."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x.dtype)


def in_top(scores: Tensor, k: int) -> Tensor:
    """True where an entry is among the k largest of the last axis; ties go to the lower index."""
    n = scores.shape[-1]
    index = torch.arange(n, device=scores.device)
    mine, other = scores.unsqueeze(-1), scores.unsqueeze(-2)
    ahead = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    return ahead.sum(-1) < k


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


class Segments:
    """How N tokens split into causal sequences: rows x length for each (rows, length)."""

    def __init__(self, shapes: list[tuple[int, int]], device):
        self.shapes = shapes
        self.positions = torch.cat([torch.arange(length, device=device).repeat(rows)
                                    for rows, length in shapes])  # [N]

    def split(self, x: Tensor) -> list[Tensor]:
        """x [N, ...] as one [rows, length, ...] tensor per segment."""
        parts = x.split([rows * length for rows, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes)]


class Attention(nn.Module):
    """MLA in its naive form: keys and values are expanded from the latent."""

    def __init__(self, c: dict):
        super().__init__()
        d, self.heads = c["hidden_size"], c["num_attention_heads"]
        self.nope, self.rope, self.v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        self.latent, q_lora = c["kv_lora_rank"], c["q_lora_rank"]
        self.scale = yarn_softmax_scale(c)
        self.q_a_proj = nn.Linear(d, q_lora, bias=False)
        self.q_a_layernorm = RMSNorm(q_lora, MLA_NORM_EPS)
        self.q_b_proj = nn.Linear(q_lora, self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d, self.latent + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.latent, MLA_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.latent, self.heads * (self.nope + self.v), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v, d, bias=False)

    def queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).unflatten(-1, (self.heads, -1))
        return torch.cat((q[..., :self.nope], rope(q[..., self.nope:], cos, sin)), -1)  # [N, H, 64]

    def cache_row(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What a decoder keeps of a token: normed latent, then the rotated shared key."""
        c, k_pe = self.kv_a_proj_with_mqa(x).split((self.latent, self.rope), -1)
        return torch.cat((self.kv_a_layernorm(c), rope(k_pe[:, None], cos, sin)[:, 0]), -1)

    def expand(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [..., H, nope+rope] and values [..., H, v] from cache rows [..., latent+rope]."""
        c, k_pe = row.split((self.latent, self.rope), -1)
        k, v = self.kv_b_proj(c).unflatten(-1, (self.heads, -1)).split((self.nope, self.v), -1)
        k_pe = k_pe.unsqueeze(-2).expand(*k.shape[:-1], self.rope)
        return torch.cat((k, k_pe.to(k.dtype)), -1), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        q, row = self.queries(x, cos, sin), self.cache_row(x, cos, sin)
        k, v = self.expand(row)
        v = F.pad(v, (0, q.shape[-1] - self.v))  # flash attention wants one width for q, k and v
        outs = []
        for qs, ks, vs in zip(segments.split(q), segments.split(k), segments.split(v)):
            o = F.scaled_dot_product_attention(qs.transpose(1, 2), ks.transpose(1, 2),
                                               vs.transpose(1, 2), is_causal=True, scale=self.scale)
            outs.append(o.transpose(1, 2)[..., :self.v].flatten(2).flatten(0, 1))
        return self.o_proj(torch.cat(outs))

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, position: int) -> Tensor:
        """One token for each of B rows; cache [B, T, latent+rope] holds the earlier positions."""
        q = self.queries(x, cos, sin)
        cache[:, position] = self.cache_row(x, cos, sin)
        k, v = self.expand(cache[:, :position + 1])
        p = torch.softmax(torch.einsum("bhd,bthd->bht", q, k) * self.scale, -1)
        return self.o_proj(torch.einsum("bht,bthd->bhd", p, v).flatten(1))


class DenseMlp(nn.Module):
    def __init__(self, d: int, f: int):
        super().__init__()
        self.gate_proj = nn.Linear(d, f, bias=False)
        self.up_proj = nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoeMlp(nn.Module):
    """Routed experts and one shared expert. `load` and `affinity` serve the balance terms."""

    def __init__(self, c: dict):
        super().__init__()
        d, fm, self.experts = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
        self.top_k, self.groups = c["num_experts_per_tok"], c["n_group"]
        self.kept_groups, self.scale = c["topk_group"], c["routed_scaling_factor"]
        self.router = nn.Parameter(torch.empty(self.experts, d))
        self.register_buffer("bias", torch.zeros(self.experts))  # e_score_correction_bias
        self.gate = nn.Parameter(torch.empty(self.experts + 1, fm, d))
        self.up = nn.Parameter(torch.empty(self.experts + 1, fm, d))
        self.down = nn.Parameter(torch.empty(self.experts + 1, d, fm))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """weights [N, E] (zero where not chosen), choice [N, E], sigmoid scores [N, E]; all f32."""
        with torch.autocast(x.device.type, enabled=False):
            s = torch.sigmoid(x.float() @ self.router.float().T)
        c = (s + self.bias).unflatten(-1, (self.groups, -1))  # the bias decides the choice only
        group_score = torch.where(in_top(c, 2), c, 0).sum(-1)
        c = c.masked_fill(~in_top(group_score, self.kept_groups).unsqueeze(-1), -math.inf)
        choice = in_top(c.flatten(-2), self.top_k)
        w = torch.where(choice, s, 0)
        return w / (w.sum(-1, keepdim=True) + 1e-20) * self.scale, choice, s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w, choice, s = self.route(x)
        w = F.pad(w, (0, 1), value=1.0)  # the shared expert
        h = F.silu(F.linear(x, self.gate.flatten(0, 1))) * F.linear(x, self.up.flatten(0, 1))
        h = h.unflatten(-1, (self.experts + 1, -1)) * w.unsqueeze(-1).to(h.dtype)
        down = self.down.transpose(0, 1).flatten(1)  # [D, (E+1)*Fm]
        return F.linear(h.flatten(-2), down), choice, s


class DecoderLayer(nn.Module):
    def __init__(self, c: dict, dense: bool):
        super().__init__()
        d, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_layernorm = RMSNorm(d, eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(d, eps)
        self.mlp = DenseMlp(d, c["intermediate_size"]) if dense else MoeMlp(c)

    def feed_forward(self, x: Tensor) -> tuple[Tensor, tuple | None]:
        y = self.mlp(self.post_attention_layernorm(x))
        return (y[0], y[1:]) if isinstance(y, tuple) else (y, None)


class TinyModel(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        d, eps, layers = c["hidden_size"], c["rms_norm_eps"], c["num_hidden_layers"]
        self.config = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], d)
        self.layers = nn.ModuleList(
            DecoderLayer(c, dense=i < c["first_k_dense_replace"]) for i in range(layers))
        self.norm = RMSNorm(d, eps)
        self.lm_head = nn.Linear(d, c["vocab_size"], bias=False)
        self.enorm, self.hnorm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.eh_proj = nn.Linear(2 * d, d, bias=False)
        self.mtp_layer = DecoderLayer(c, dense=False)
        self.mtp_norm = RMSNorm(d, eps)  # shared_head.norm
        freqs = torch.tensor(yarn_inv_freq(c), dtype=torch.float64).float()
        self.register_buffer("inv_freq", freqs, persistent=False)

    def moe_layers(self) -> list[MoeMlp]:
        """MoE blocks of the main layers, then of the MTP layer."""
        return [layer.mlp for layer in (*self.layers, self.mtp_layer)
                if isinstance(layer.mlp, MoeMlp)]

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        a = positions.float()[:, None] * self.inv_freq
        return a.cos(), a.sin()  # [N, r/2]

    def run_layer(self, layer, x, cos, sin, segments, drop, routing):
        x = x + drop(layer.self_attn(layer.input_layernorm(x), cos, sin, segments))
        y, routed = layer.feed_forward(x)
        if routed is not None:
            routing.append(routed)
        return x + drop(y)

    def forward(self, tokens: Tensor, following: Tensor, segments: Segments,
                keep: Tensor | None = None):
        """tokens [N], following [N] = the next token of each. Returns the main hidden states after
        model.norm [N, D], the MTP states after shared_head.norm [N, D], and the routing.

        keep [N, 1] is the share of activations that dropout keeps for each token; None: no dropout.
        """
        def drop(y: Tensor) -> Tensor:
            if keep is None:
                return y
            return y * (torch.rand_like(y) < keep).to(y.dtype) / keep.to(y.dtype)

        cos, sin = self.angles(segments.positions)
        routing: list[tuple[Tensor, Tensor]] = []
        x = drop(self.embed_tokens(tokens))
        for layer in self.layers:
            x = self.run_layer(layer, x, cos, sin, segments, drop, routing)
        h = self.norm(x)
        u = torch.cat((self.enorm(self.embed_tokens(following)), self.hnorm(h)), -1)
        v = self.run_layer(self.mtp_layer, self.eh_proj(u), cos, sin, segments, drop, routing)
        return h, self.mtp_norm(v), routing

    def new_cache(self, batch: int, length: int) -> list[Tensor]:
        width = self.config["kv_lora_rank"] + self.config["qk_rope_head_dim"]
        return [torch.zeros(batch, length, width, device=self.inv_freq.device) for _ in self.layers]

    def decode(self, tokens: Tensor, cache: list[Tensor], position: int) -> Tensor:
        """Logits [B, V] for one more token of B rows that all stand at `position`."""
        cos, sin = self.angles(torch.full_like(tokens, position))
        x = self.embed_tokens(tokens)
        for layer, rows in zip(self.layers, cache):
            x = x + layer.self_attn.decode(layer.input_layernorm(x), cos, sin, rows, position)
            x = x + layer.feed_forward(x)[0]
        return self.lm_head(self.norm(x))
