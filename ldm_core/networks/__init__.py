"""The networks of the paper: one U-Net, one autoencoder and one conditioning interface for the whole family.

`unet` is diffusers' UNet2DConditionModel and UNet2DModel, `autoencoder` AutoencoderKL and VQModel; both read their
class's configuration and write it back. A condition encoder (`conditioning`) returns the `context` to attend to and
the `unconditional` one of guidance: CLIP, the paper's BERT-like transformer, classes, layouts, CLIP's embeddings of
prompt and images. A semantic map becomes channels.
"""
