"""Model folders small enough to serve on a CPU: random weights, and a tokenizer of made-up words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from search_spaces.recipe import EngineGroup, Recipe

VOCAB = 2048

SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "attention_bias": False,
}
LLAMA = SHAPE | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "intermediate_size": 512,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
QWEN_MOE = SHAPE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
"""A mixture of experts: 16 of them, four per token."""


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """A folder that an engine starts from with dummy weights; token i is the word `w<i>`."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    files = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": names | {"unk_token": "<unk>", "model_max_length": 32768},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


CPU_FLAGS: dict[str, str | int | float | bool | list[str]] = {
    "device": "cpu",
    "dtype": "float32",
    "load-format": "dummy",
    "attention-backend": "torch_native",
    "sampling-backend": "pytorch",
    "skip-server-warmup": True,
    "sleep-on-idle": True,
}
CPU_ENV = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
"""One thread computes, so that the engine's other processes and the client have the other core."""


def recipe_of(name: str, folder: Path) -> Recipe:
    """One server of the model in `folder`."""
    group = EngineGroup(
        tp=1,
        moe_backend="triton",
        mem_fraction_static=0.5,
        max_running_per_rank=16,
        max_total_tokens=32768,
        chunk_tokens_per_rank=512,
        graph_max_batch_per_rank=0,
        overlap_schedule=False,
        extra_flags=CPU_FLAGS,
        extra_env=CPU_ENV,
    )
    return Recipe(name=name, model=name, hardware="cpu", aggregated=group, launch={"model_path": str(folder)})
