"""Stand-ins for OpenAI, Anthropic and Google: one local server that speaks their wires strictly.

It answers with the local model's text or by a script that the last user message carries, and says
no as the real services do. Used where a provider has no key, by tests and by benchmarks. Must know
neither Django nor the database: it is a process of its own (`python -m gateway.standin`).
"""

# What a caller presents as its key; anything else is refused as the real service refuses it.
KEY = "stand-in"
