"""The tiny model as a Hugging Face directory, for mlx_lm.server, vLLM and others that read safetensors: under 1 MB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamactl_py.demo import cycle
from llamactl_py.demo.cycle import Mode, Shape, needs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u0120"
"""How byte-level BPE writes the space before a word."""

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, cycle.TURN_START, cycle.TURN_END)

TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""What transformers calls the tensors that llama.cpp calls otherwise."""


def write(
    path: Path,
    *,
    mode: Mode = "cycle",
    stop: bool = False,
    dim: int = 128,
    layers: int = 2,
    heads: int = 2,
    kv_heads: int = 2,
    ffn: int = 256,
    ctx: int = 2048,
    seed: int = 0,
    dtype: Literal["float16", "float32"] = "float16",
) -> Path:
    """Write the model into the directory *path*, and return it. The same arguments give the same bytes.

    It says what `tiny_gguf.write` says. The default has heads of 64, as vLLM's attention on a CPU takes no smaller than 32.

    Raises DaemonRefused when tokenizers, safetensors or numpy are not installed.
    """
    with needs("tokenizers", "safetensors", "numpy"):
        import numpy as np
        from safetensors.numpy import save_file

        tokenizer = _tokenizer()

    shape = Shape(dim, layers, heads, kv_heads, ffn)
    number: dict[str, int] = tokenizer.get_vocab()
    words = [number[SPACE + word] for word in cycle.SENTENCE_WORDS]
    turn_end, end_of_text = number[cycle.TURN_END], number[END_OF_TEXT]
    after_last = turn_end if stop else words[0]
    vocabulary = -(-len(number) // 64) * 64  # a round number, as engines like it

    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    _write_json(path / "tokenizer_config.json", _tokenizer_config(number, ctx))
    ends = {"bos_token_id": end_of_text, "eos_token_id": [turn_end, end_of_text], "pad_token_id": end_of_text}
    _write_json(path / "generation_config.json", ends)
    _write_json(path / "config.json", {**_model_config(shape, vocabulary, ctx), **ends, "dtype": dtype, "torch_dtype": dtype})
    weights = cycle.tensors(shape, vocabulary, words, after_last, mode, seed)
    save_file(
        {_tensor_name(name): values.astype(np.dtype(dtype)) for name, values in weights},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    return path


def _tokenizer() -> Tokenizer:
    """Byte-level BPE from our own merges: what the library's trainer makes of ties is its own affair, and may change."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = cycle.learn_merges(SPACE + word for word in cycle.VOCABULARY_WORDS)
    bytes_as_letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys([*SPECIAL, *bytes_as_letters, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE(vocab={piece: token for token, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _tensor_name(name: str) -> str:
    """`blk.3.attn_q` as transformers spells it: `model.layers.3.self_attn.q_proj.weight`."""
    layer, _, part = name.rpartition(".")
    prefix = layer.replace("blk.", "model.layers.") + "." if layer else ""
    return f"{prefix}{TENSOR_NAMES[part]}.weight"


def _model_config(shape: Shape, vocabulary: int, ctx: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": ctx,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_cache": True,
    }


def _tokenizer_config(number: Mapping[str, int], ctx: int) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": cycle.TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "model_max_length": ctx,
        "clean_up_tokenization_spaces": False,
        "chat_template": cycle.CHAT_TEMPLATE,
        "added_tokens_decoder": {str(number[piece]): {"content": piece, **flags} for piece in SPECIAL},
    }


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
