# SPDX-License-Identifier: MIT
"""The models that goldens are made with: transformers' own where it has one.

DeepseekForCausalLM (DeepSeekMoE 16B) is not in transformers. `deepseek_moe` below puts a few lines
of PyTorch, written after models.md section 5, in the place of LlamaForCausalLM's feed-forward
layers; attention, norms, embedding and head stay transformers' Llama.
"""

import copy
import json
import math

import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config,
                          DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

from golden_weights import Spec, architecture, is_moe_layer

CLASSES = {
    "Llama": (LlamaConfig, LlamaForCausalLM),
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "Deepseek": (LlamaConfig, LlamaForCausalLM),
    "DeepseekV2": (DeepseekV2Config, DeepseekV2ForCausalLM),
    "DeepseekV3": (DeepseekV3Config, DeepseekV3ForCausalLM),
}


def hf_config(config: dict, attention: str = "eager", **changes):
    """The config as transformers reads it; weights are dequantised before it sees them."""
    skipped = ("quantization_config", "architectures", "auto_map", "torch_dtype", "model_type")
    kept = {k: v for k, v in config.items() if k not in skipped and not k.startswith("_")}
    kept = json.loads(json.dumps(kept)) | changes  # transformers edits rope_scaling in place
    out = CLASSES[architecture(config)][0](**kept, attn_implementation=attention, dtype="float32")
    out._experts_implementation = "eager"
    return out


class MoeGate(nn.Module):
    """Raw softmax values of the K largest: they do not sum to 1, nothing scales them."""

    def __init__(self, c: dict):
        super().__init__()
        self.top_k = c["num_experts_per_tok"]
        self.weight = nn.Parameter(torch.empty(c["n_routed_experts"], c["hidden_size"]))

    def forward(self, x):
        logits = linear(x.float(), self.weight.float())
        weights, chosen = logits.softmax(-1).topk(self.top_k)
        return logits, weights, chosen


class SwiGlu(nn.Module):
    def __init__(self, width: int, d: int):
        super().__init__()
        self.gate_proj = nn.Linear(d, width, bias=False)
        self.up_proj = nn.Linear(d, width, bias=False)
        self.down_proj = nn.Linear(width, d, bias=False)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(nn.Module):
    """y = sum_k w_k expert_k(x) + shared(x), experts added in ascending order."""

    def __init__(self, c: dict):
        super().__init__()
        width, d = c["moe_intermediate_size"], c["hidden_size"]
        self.gate = MoeGate(c)
        self.experts = nn.ModuleList(SwiGlu(width, d) for _ in range(c["n_routed_experts"]))
        self.shared_experts = SwiGlu(c["n_shared_experts"] * width, d)

    def forward(self, hidden):
        x = hidden.flatten(0, -2)
        _, weights, chosen = self.gate(x)
        y = torch.zeros_like(x, dtype=torch.float32)
        for e, expert in enumerate(self.experts):
            token, k = torch.where(chosen == e)
            y[token] += weights[token, k, None] * expert(x[token])
        return (y + self.shared_experts(x)).to(x.dtype).view_as(hidden)


def deepseek_moe(model: LlamaForCausalLM, c: dict) -> None:
    for i, layer in enumerate(model.model.layers):
        if is_moe_layer(c, i):
            layer.mlp = Moe(c)


def hf_state(config: dict, weights: dict) -> dict:
    """The checkpoint's tensors under transformers' names: experts of a layer stacked."""
    if not architecture(config).startswith("DeepseekV"):
        return dict(weights)
    out = {k: v for k, v in weights.items() if ".mlp.experts." not in k}
    n_layers = config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)
    for layer in range(config["first_k_dense_replace"], n_layers):
        p = f"model.layers.{layer}.mlp.experts"
        part = {kind: torch.stack([weights[f"{p}.{e}.{kind}_proj.weight"]
                                   for e in range(config["n_routed_experts"])])
                for kind in ("gate", "up", "down")}
        out[f"{p}.gate_up_proj"] = torch.cat([part["gate"], part["up"]], dim=1)
        out[f"{p}.down_proj"] = part["down"]
    return out


def load_model(spec: Spec, state: dict, attention: str = "eager"):
    model = CLASSES[architecture(spec.config)][1](hf_config(spec.config, attention)).eval()
    if architecture(spec.config) == "Deepseek":
        deepseek_moe(model, spec.config)
        model.eval()
    layers = tuple(f"model.layers.{i}." for i in range(spec.config["num_hidden_layers"]))
    main = {k: v for k, v in state.items()
            if not k.startswith("model.layers.") or k.startswith(layers)}
    if spec.config["tie_word_embeddings"]:
        main["lm_head.weight"] = main["model.embed_tokens.weight"]
    model.load_state_dict(main, strict=True)
    return model


def in_bf16(model):
    """A copy as from_pretrained leaves it: buffers (rotary frequencies, the router's correction
    bias) in float32."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name, module in rounded.named_modules(remove_duplicate=False):
        for leaf, value in module._buffers.items():
            if value is not None:
                module._buffers[leaf] = buffers[f"{name}.{leaf}" if name else leaf]
    return rounded


class Margins:
    """Watches every router: by how much the choices of groups and experts are made."""

    def __init__(self, config: dict):
        self.expert, self.group, self.zero_mask = math.inf, math.inf, 0
        self.v3 = architecture(config) == "DeepseekV3"
        self.top_k = config.get("num_experts_per_tok")
        grouped = self.v3 or config.get("topk_method") == "group_limited_greedy"
        self.n_group = config["n_group"] if grouped else 1
        self.topk_group = config["topk_group"] if grouped else 1

    def watch(self, model, config: dict) -> None:
        for i, layer in enumerate(model.model.layers):
            if is_moe_layer(config, i):
                layer.mlp.gate.register_forward_hook(self)

    def choice(self, router, outputs):
        """What decides, [T, E]. Softmax keeps the order of its logits: V2 chooses by them."""
        return outputs[0].sigmoid() + router.e_score_correction_bias if self.v3 else outputs[0]

    def __call__(self, router, inputs, outputs):
        choice = self.choice(router, outputs)
        grouped = choice.view(len(choice), self.n_group, -1)
        scores = grouped.topk(2 if self.v3 else 1, dim=-1)[0].sum(-1)
        if self.n_group > self.topk_group:
            best = scores.sort(-1, descending=True)[0]
            gap = best[:, self.topk_group - 1] - best[:, self.topk_group]
            self.group = min(self.group, float(gap.min()))
        groups = scores.topk(self.topk_group)[1]
        keep = torch.zeros(grouped.shape[:2]).scatter(1, groups, 1).bool()
        masked = grouped.masked_fill(~keep[..., None], -math.inf).flatten(1)
        best = masked.sort(-1, descending=True)[0]
        gap = best[:, self.top_k - 1] - best[:, self.top_k]
        self.expert = min(self.expert, float(gap.min()))
        # Where masking with 0 would have chosen otherwise: a chosen score is negative.
        if self.v3 and self.n_group > self.topk_group:
            self.zero_mask += int((best[:, self.top_k - 1] < 0).sum())


class Routes(Margins):
    """Watches every layer of experts: the scores that choose, and which experts they choose.

    Computed from the layer's input and its router's weight, as every router does, so that it does not
    matter what a version's router returns.
    """

    def __init__(self, config: dict):
        super().__init__(config)
        self.layers = {}  # module -> [(choice [T, E], chosen [T, E] bool)] in the order of calls

    def watch(self, model, config: dict) -> None:
        for i, layer in enumerate(model.model.layers):
            if is_moe_layer(config, i):
                self.layers[layer.mlp] = []
                layer.mlp.register_forward_pre_hook(self)

    def __call__(self, mlp, inputs):
        x = inputs[0].flatten(0, -2)
        logits = linear(x.float(), mlp.gate.weight.float())
        choice = self.choice(mlp.gate, (logits,)).float()
        grouped = choice.view(len(choice), self.n_group, -1)
        scores = grouped.topk(2 if self.v3 else 1, dim=-1)[0].sum(-1)
        keep = torch.zeros_like(grouped, dtype=torch.bool)
        keep.scatter_(1, scores.topk(self.topk_group)[1][..., None].expand(-1, -1, grouped.shape[-1]), True)
        masked = grouped.masked_fill(~keep, -math.inf).flatten(1)
        chosen = torch.zeros_like(masked, dtype=torch.bool).scatter_(1, masked.topk(self.top_k)[1], True)
        self.layers[mlp].append((choice.cpu(), chosen.cpu()))

    def of_layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(choice, chosen) of every layer of experts, in its order, all calls one after the other."""
        assert all(self.layers.values()), "a layer of experts was not called"
        return [tuple(torch.cat(part) for part in zip(*calls)) for calls in self.layers.values()]
