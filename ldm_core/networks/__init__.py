"""The networks of the paper: U-Net, autoencoder and condition encoders."""
