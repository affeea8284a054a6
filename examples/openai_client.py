# ruff: noqa: T201
"""Talk to llamactl with the OpenAI SDK: pip install openai

OPENAI_API_KEY=$(llamactl keys create example) python openai_client.py MODEL [PROMPT]
"""

from __future__ import annotations

import os
import sys

import openai


def main() -> None:
    key = os.environ.get("OPENAI_API_KEY")
    if len(sys.argv) < 2 or not key:
        sys.exit("usage: OPENAI_API_KEY=KEY openai_client.py MODEL [PROMPT]; `llamactl keys create NAME` makes a key")
    model = sys.argv[1]
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Count from one to ten."
    url = os.environ.get("LLAMACTL_URL", "http://127.0.0.1:8080")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client:
        try:
            print("models:", ", ".join(known.id for known in client.models.list()))
            # A stopped instance is started by the request: no separate step, only a longer wait for the first word.
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], max_tokens=100, stream=True
            )
            for event in answer:
                if event.choices:
                    print(event.choices[0].delta.content or "", end="", flush=True)
            print()
        except openai.APIStatusError as error:
            # The message says what is wrong; where trying again may help, the SDK has done so.
            sys.exit(f"{error.status_code}: {error.message}")
        except openai.APIConnectionError as error:
            sys.exit(f"no answer from {url}: {error}")


if __name__ == "__main__":
    main()
