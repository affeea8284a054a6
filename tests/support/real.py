"""The OpenAI SDK as the client of a real daemon with real servers. The model counts: any prompt goes on "one two three ...".

The fixtures `served`, `commands` and `sdk` are in tests/e2e/conftest.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import openai

from tests.support.daemons import Daemon

COUNTED = "one two three four five six seven eight nine ten"
Commands = dict[str, Callable[[], str]]
Sdk = Callable[[Daemon], openai.OpenAI]


def count(client: openai.OpenAI, model: str, tokens: int = 10) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Count."}], max_tokens=tokens)
    return (answer.choices[0].message.content or "").strip()


def stream(client: openai.OpenAI, model: str, tokens: int) -> Generator[str, None, None]:
    """The words of a streamed chat; closing the generator closes the connection."""
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count."}], max_tokens=tokens, stream=True
    ) as events:
        for event in events:
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content
