"""What requests came to: who asked, how long each step took, how many tokens. Told by the relay, read by metrics and the API."""
