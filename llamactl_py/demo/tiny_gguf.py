"""The tiny model as one GGUF file, for llama-server: 250 KB, written in a third of a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamactl_py.demo import cycle
from llamactl_py.demo.cycle import Mode, Shape, needs

if TYPE_CHECKING:
    from gguf import GGUFWriter

SPACE = "\u2581"
"""How SentencePiece writes the space before a word."""


def write(
    path: Path,
    *,
    mode: Mode = "cycle",
    stop: bool = False,
    dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 128,
    ctx: int = 2048,
    seed: int = 0,
    ftype: Literal["f16", "f32"] = "f16",
    name: str = "tiny",
) -> Path:
    """Write the model to the file *path*, and return it. The same arguments give the same bytes.

    Whatever the prompt, it answers " one two three ... ten one two ..." until max_tokens, or with *stop* ends after "ten".
    A model that loads slowly: dim=1536, layers=24, heads=24, kv_heads=8, ffn=4096 makes 1.2 GB in ten seconds.

    Raises DaemonRefused when gguf or numpy are not installed.
    """
    with needs("gguf", "numpy"):
        import gguf
        import numpy as np

    shape = Shape(dim, layers, heads, kv_heads, ffn)
    vocabulary = _vocabulary()
    number = {piece: token for token, (piece, _, _) in enumerate(vocabulary)}
    words = [number[SPACE + word] for word in cycle.SENTENCE_WORDS]
    after_last = number[cycle.TURN_END] if stop else words[0]
    file_type = gguf.LlamaFileType.MOSTLY_F16 if ftype == "f16" else gguf.LlamaFileType.ALL_F32

    # Written beside its place and moved there when complete: a server may have the old file mapped into memory.
    unfinished = path.with_name(f"{path.name}.part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    writer.add_name(name)
    writer.add_description("generated, not trained: it counts to ten")
    writer.add_file_type(file_type)
    _add_shape(writer, shape, ctx)
    _add_tokenizer(writer, vocabulary, number[cycle.TURN_END])
    for tensor, values in cycle.tensors(shape, len(vocabulary), words, after_last, mode, seed):
        # llama.cpp wants the vectors (they are norms) in 32 bits, whatever the matrices have.
        is_half = ftype == "f16" and values.ndim > 1
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float16) if is_half else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.replace(path)


def _vocabulary() -> list[tuple[str, float, int]]:
    """Tokens in SentencePiece's manner: piece, score, type. Pieces are joined in the order of their scores, highest first."""
    from gguf import TokenType

    control = ("<s>", "</s>", cycle.TURN_START, cycle.TURN_END)
    merges = cycle.learn_merges(SPACE + word for word in cycle.VOCABULARY_WORDS)
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyz"]
    pieces = dict.fromkeys([*(left + right for left, right in merges), *letters])  # two merges may make the same piece
    return [
        ("<unk>", 0.0, TokenType.UNKNOWN),
        *((piece, 0.0, TokenType.CONTROL) for piece in control),
        *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
        *((piece, -float(rank), TokenType.NORMAL) for rank, piece in enumerate(pieces)),
    ]


def _add_shape(writer: GGUFWriter, shape: Shape, ctx: int) -> None:
    writer.add_context_length(ctx)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_tokenizer(writer: GGUFWriter, vocabulary: list[tuple[str, float, int]], turn_end: int) -> None:
    pieces, scores, types = zip(*vocabulary, strict=True)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(turn_end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(cycle.CHAT_TEMPLATE)
