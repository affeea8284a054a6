"""One daemon that runs all your local LLM servers and gives them one OpenAI-compatible door."""

__version__ = "0.1.0"
