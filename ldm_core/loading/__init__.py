"""A model directory into the networks of a model: `model.load_model`, and `model.check_model` without the memory.

The names in a state dict are diffusers' names, so loading is a strict comparison of names and shapes; a missing,
unknown or unsupported tensor is named with its file. Components with equal content are held once.
"""
