"""Talk to a GGUF file: llama.cpp in a process of its own, and a chat over it."""
