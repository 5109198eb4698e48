"""Leave with files: merge, GGUF, quantize, Modelfile, certificate, script."""
