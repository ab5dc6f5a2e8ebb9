"""Super-resolution (VF 4): an upscaler's training, by the same trainer as a video network's.

task.py            what a run is made of         objective.py       one step's loss
degradation.py     a clip damaged, as Real-ESRGAN does: kernels.py, jpeg.py
patches.py         squares of clips              losses.py, discriminator.py   the GAN, and what must not shimmer
validation.py      seeing it learn               measures.py        PSNR, SSIM, shimmer; compare.py beside others
activations.py     memory, for --plan
"""
