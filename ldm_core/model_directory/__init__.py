"""What a model directory says, read from its JSON files alone, so that a gateway needs no torch.

One format: a diffusers-layout directory, plus an optional `service.json`. Families that diffusers has no pipeline for
keep its component names and add a `condition/` component. `card_reader` derives a model's card (tasks, sizes, labels,
limits); `components` and `foreign` say what a directory is, `scheduler_config` which settings of a scheduler are
followed, `weight_files` finds files of weights and bounds their headers.
"""
