# ruff: noqa: T201
"""Talk to llamactl with the OpenAI SDK: pip install openai

LLAMACTL_KEY=llamactl-... python openai_client.py MODEL [PROMPT]
"""

from __future__ import annotations

import os
import sys

import openai


def main() -> None:
    model = sys.argv[1]
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Count from one to ten."
    # A stopped instance is started by the request: no separate step, only a longer wait for the first word.
    url = os.environ.get("LLAMACTL_URL", "http://127.0.0.1:8080")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ["LLAMACTL_KEY"]) as client:
        print("models:", ", ".join(known.id for known in client.models.list()))
        try:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], max_tokens=100, stream=True
            )
            for event in answer:
                if event.choices:
                    print(event.choices[0].delta.content or "", end="", flush=True)
            print()
        except openai.APIStatusError as error:
            # The message says what is wrong; the SDK has tried again where Retry-After said that it helps.
            sys.exit(f"{error.status_code}: {error.message}")


if __name__ == "__main__":
    main()
