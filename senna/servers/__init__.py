"""Requests to servers with OpenAI's interface, for `senna convert --captioner openai` and `senna evaluate --server`."""
