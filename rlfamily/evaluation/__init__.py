"""What is done with a policy but training it: `generate` responses, `score` them, `pairs`, `logprobs`, the `gate`."""
