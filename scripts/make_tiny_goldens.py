# SPDX-License-Identifier: MIT
"""Float32 golden logits of models/tiny: main model, MTP layer and a greedy continuation.

Computed by scripts/tiny_model.py from the released files and cross-checked against transformers'
DeepseekV3ForCausalLM on the same dequantised weights (its decoder layer also runs the MTP layer).

    python3 scripts/make_tiny_goldens.py     writes tests/data/tiny/logits.safetensors

For each case NAME the file holds
    NAME.input_ids      I64 [T]
    NAME.positions      I64 [P]      the positions whose logits are stored
    NAME.logits         F32 [P, V]   main model, for the token at position + 1
    NAME.mtp_logits     F32 [Q, V]   MTP layer at positions[:Q], for the token at position + 2;
                                     the last position of the input has no next token, hence Q
and greedy.prompt_ids, greedy.ids: a prompt and the 64 tokens that temperature 0 adds.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from tiny_data import Encoder
from tiny_eval import STORY_PROMPTS, generate
from tiny_format import load, released_tensors
from tiny_model import Segments, TinyModel

GREEDY_TOKENS = 64
SHORT = 40       # tokens of a case with all logits stored
LONG = 600       # beyond original_max_position_embeddings, so that YaRN's ramp matters
LONG_STORED = 8  # its last positions
MAX_NMSE = 1e-10

CHAT = ("<｜begin▁of▁sentence｜><｜User｜>What is 47 + 38?<｜Assistant｜><think>\n7+8=15, carry 1\n"
        "4+3+1=8\n</think>\n\n47 + 38 = 85<｜end▁of▁sentence｜>")
STORY = ("<｜begin▁of▁sentence｜>Once upon a time there was a miller who had three sons, and a fox "
         "lived in the wood behind the mill. One evening the youngest son said, 'Father, let me go "
         "out into the world and seek my fortune.'")
UNICODE = ("<｜begin▁of▁sentence｜>Zwölf Boxkämpfer, 你好世界! \t x = 3.14159; // 🌍\n\n"
           "{\"key\": [1, 22, 333]} naïve café")


@torch.no_grad()
def both_logits(model: TinyModel, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Main logits [T, V] and MTP logits [T-1, V]."""
    tokens = torch.tensor(ids)
    following = torch.cat((tokens[1:], tokens[:1]))  # the last one is a filler, cut off below
    h, v, _ = model(tokens, following, Segments([(1, len(ids))], "cpu"))
    return model.lm_head(h), model.lm_head(v)[:-1]


class Reference:
    """The same weights inside transformers; the MTP layer is one more decoder layer."""

    def __init__(self, model_dir: Path):
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
        del config["quantization_config"]
        self.layers = config["num_hidden_layers"]
        config["num_hidden_layers"] += 1
        tensors = released_tensors(model_dir)
        prefix = f"model.layers.{self.layers}."
        self.mtp = {name: tensors.pop(prefix + name + ".weight")
                    for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm")}
        self.model = DeepseekV3ForCausalLM(DeepseekV3Config(**config)).float().eval()
        state = self.model.state_dict()
        for name, target in state.items():
            if name.endswith("mlp.experts.gate_up_proj"):
                base = name.removesuffix("gate_up_proj")
                parts = [torch.cat((tensors.pop(f"{base}{e}.gate_proj.weight"),
                                    tensors.pop(f"{base}{e}.up_proj.weight")))
                         for e in range(len(target))]
                target.copy_(torch.stack(parts))
            elif name.endswith("mlp.experts.down_proj"):
                base = name.removesuffix("down_proj")
                target.copy_(torch.stack([tensors.pop(f"{base}{e}.down_proj.weight")
                                          for e in range(len(target))]))
            else:
                target.copy_(tensors.pop(name))
        assert not tensors, list(tensors)[:3]

    def norm(self, x: Tensor, name: str) -> Tensor:
        eps = self.model.config.rms_norm_eps
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * self.mtp[name]

    @torch.no_grad()
    def both_logits(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        inner, tokens = self.model.model, torch.tensor([ids])
        positions = torch.arange(len(ids))[None]
        x = inner.embed_tokens(tokens)
        angles = inner.rotary_emb(x, positions)

        def layer(index: int, x: Tensor, length: int) -> Tensor:
            mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
            y = inner.layers[index](x, attention_mask=mask, position_ids=positions[:, :length],
                                    position_embeddings=tuple(a[:, :length] for a in angles))
            return y[0] if isinstance(y, tuple) else y

        for index in range(self.layers):
            x = layer(index, x, len(ids))
        h = inner.norm(x)
        u = torch.cat((self.norm(inner.embed_tokens(tokens[:, 1:]), "enorm"),
                       self.norm(h[:, :-1], "hnorm")), -1) @ self.mtp["eh_proj"].T
        v = self.norm(layer(self.layers, u, len(ids) - 1), "shared_head.norm")
        return self.model.lm_head(h)[0], self.model.lm_head(v)[0]


def nmse(got: Tensor, want: Tensor) -> float:
    return ((got - want).double().square().sum() / want.double().square().sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/tiny"))
    parser.add_argument("--out", type=Path, default=Path("tests/data/tiny/logits.safetensors"))
    args = parser.parse_args()
    model, encoder, reference = load(args.model), Encoder(args.model), Reference(args.model)

    story = encoder.text(STORY)
    cases = {"chat": encoder.text(CHAT)[:SHORT], "story": story[:SHORT],
             "unicode": encoder.text(UNICODE)[:SHORT],
             "long": (story + story[1:] * (LONG // len(story) + 1))[:LONG]}
    tensors = {}
    for name, ids in cases.items():
        main_logits, mtp_logits = both_logits(model, ids)
        for part, got, want in zip(("main", "mtp"), (main_logits, mtp_logits),
                                   reference.both_logits(ids)):
            error = nmse(got, want)
            print(f"{name} {part}: {len(ids)} tokens, NMSE against transformers {error:.2e}")
            assert error < MAX_NMSE
        first = max(0, len(ids) - LONG_STORED) if name == "long" else 0
        tensors[f"{name}.input_ids"] = torch.tensor(ids)
        tensors[f"{name}.positions"] = torch.arange(first, len(ids))
        tensors[f"{name}.logits"] = main_logits[first:].contiguous()
        tensors[f"{name}.mtp_logits"] = mtp_logits[first:].contiguous()
    prompts = [encoder.prompt(p) for p in STORY_PROMPTS]
    answers = generate(model, encoder, prompts, GREEDY_TOKENS, 0.0, "cpu")
    prompt, greedy = next(pair for pair in zip(prompts, (a[:GREEDY_TOKENS] for a in answers))
                          if len(pair[1]) == GREEDY_TOKENS)  # the first that goes on long enough
    tensors["greedy.prompt_ids"], tensors["greedy.ids"] = torch.tensor(prompt), torch.tensor(greedy)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out)
    args.out.chmod(0o644)  # save_file makes it private
    print(f"{args.out}: {args.out.stat().st_size} bytes; greedy: {encoder.decode(greedy)!r}")


if __name__ == "__main__":
    main()
