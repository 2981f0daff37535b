"""A bundle in the form that a server or a hub takes: Triton, DeepStream, Hugging Face."""
