"""Files of weights in whatever form they come: safetensors, shards, pickles. None of their code runs.

`file_kinds` tells files apart by their first bytes, `inert` lists the names that a pickle may hold, `recognising`
says by its keys what a file is, `reading` compares names and shapes with those of a network before it takes any
tensor.
"""
