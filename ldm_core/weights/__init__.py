"""Files of weights in whatever form they come: safetensors, shards, pickles. None of their code runs."""
