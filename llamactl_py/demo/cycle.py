"""What the tiny models share: a llama that was never trained and yet speaks, for it has learnt one sentence by heart.

The trick: the output projections of attention and feed-forward are zero, so every block adds nothing and the last hidden
state is the embedding of the last token. Each word of the sentence is embedded as a unit vector of its own, and the output
matrix maps that vector to the word that follows. A language model becomes a table with one successor for each token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from llamactl_py.ground.errors import DaemonRefused

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

SENTENCE = "one two three four five six seven eight nine ten"
SENTENCE_WORDS = SENTENCE.split()
OTHER_TEXT = "system user assistant hello world the quick brown fox jumps over the lazy dog"
VOCABULARY_WORDS = f"{SENTENCE} {OTHER_TEXT}".split()
"""The words that are one token each. Any other text is spelled in shorter pieces, down to single bytes."""

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CERTAINTY = 25.0
"""Logit of the next word, where all other tokens have 0: even at temperature 2 nothing else is ever sampled."""

Mode = Literal["cycle", "random"]
"""`cycle` counts; `random` has noise for weights, and babbles."""


class Shape(Struct, frozen=True):
    """The sizes of a llama. Larger ones load and answer more slowly, which is what they are good for."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int

    def __post_init__(self) -> None:
        if self.dim <= len(SENTENCE_WORDS):
            raise ValueError(
                f"dim is {self.dim}; it takes at least {len(SENTENCE_WORDS) + 1} to give each word a direction of its own"
            )
        if self.dim % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(f"dim {self.dim} must divide into {self.heads} even heads, and these into {self.kv_heads} groups")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@contextmanager
def needs(*libraries: str) -> Iterator[None]:
    """Around the imports of *libraries*, which only writing a model needs: says how to get them. Raises DaemonRefused."""
    try:
        yield
    except ModuleNotFoundError as error:
        names = " and ".join((", ".join(libraries[:-1]), libraries[-1]))
        raise DaemonRefused(f"writing the tiny model needs {names}; from a checkout: pip install '.[demo]'") from error


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding: the pairs to join, in order, until each of *words* is one piece. The most frequent pair goes first."""
    spelled = [list(word) for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelled = [_join(pieces, best) for pieces in spelled]
    return merges


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def tensors(
    shape: Shape, vocabulary: int, words: Sequence[int], after_last: int, mode: Mode, seed: int
) -> Iterator[tuple[str, Matrix]]:
    """Every weight of the model in float32, one at a time, under its name in a GGUF file (without the `.weight`).

    *vocabulary* is the number of tokens, *words* are the tokens of the sentence, *after_last* is what follows its last word.
    """
    import numpy as np

    generator = np.random.default_rng(seed)

    def noise(rows: int, columns: int) -> Matrix:
        values: Matrix = generator.standard_normal((rows, columns), dtype=np.float32)
        values *= columns**-0.5
        return values

    def silence(rows: int, columns: int) -> Matrix:
        return np.zeros((rows, columns), np.float32)

    if mode == "cycle":
        embedding, output = _bigram_table(generator, shape.dim, vocabulary, words, after_last)
        adds = silence
    else:
        embedding, output = noise(vocabulary, shape.dim) * shape.dim**0.5, noise(vocabulary, shape.dim)
        adds = noise
    ones: Matrix = np.ones(shape.dim, np.float32)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    yield "token_embd", embedding
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm", ones
        yield f"blk.{layer}.attn_q", noise(queries, shape.dim)
        yield f"blk.{layer}.attn_k", noise(keys, shape.dim)
        yield f"blk.{layer}.attn_v", noise(keys, shape.dim)
        yield f"blk.{layer}.attn_output", adds(shape.dim, queries)
        yield f"blk.{layer}.ffn_norm", ones
        yield f"blk.{layer}.ffn_gate", noise(shape.ffn, shape.dim)
        yield f"blk.{layer}.ffn_up", noise(shape.ffn, shape.dim)
        yield f"blk.{layer}.ffn_down", adds(shape.dim, shape.ffn)
    yield "output_norm", ones
    yield "output", output


def _bigram_table(
    generator: np.random.Generator, dim: int, vocabulary: int, words: Sequence[int], after_last: int
) -> tuple[Matrix, Matrix]:
    """Embedding and output matrices, each (vocabulary, dim), by which each word is followed by the next one."""
    import numpy as np

    # Direction 0 means "not a word of the sentence": every other token leads to the first word. A share of noise in the
    # directions that no word uses keeps these tokens apart, so that different texts have different embeddings.
    embedding = generator.standard_normal((vocabulary, dim), dtype=np.float32)
    embedding[:, : len(words) + 1] = 0
    embedding *= 0.6 / np.linalg.norm(embedding, axis=1, keepdims=True)
    embedding[:, 0] = 0.8
    output: Matrix = np.zeros((vocabulary, dim), np.float32)
    output[words[0], 0] = 1
    for direction, (word, successor) in enumerate(pairwise((*words, after_last)), start=1):
        embedding[word] = 0
        embedding[word, direction] = 1
        output[successor, direction] = 1
    # Rows of length sqrt(dim) have a root mean square of 1: the final RMSNorm leaves them as they are.
    return embedding * dim**0.5, output * (CERTAINTY / dim**0.5)
