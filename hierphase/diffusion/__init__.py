"""Diffusion models and images from elsewhere: checkpoints, data sets, folders of images.

And what all of them go through, the forward-backward pipeline.
"""
