"""The headless door: captions, and a picture where the network reads one -> a clip, larger if asked.

bundle.py              everything a clip needs, in one folder; demo/ and demo_text_to_video/ are two
encoders.py            text and image encoders, from folders
sampling.py            denoising by any diffusers scheduler, guidance, our noise schedule
image_to_video.py      captions and a picture -> a clip
text_to_image.py       a first frame out of words     stable_diffusion.py   drawn by our own spatial half
diffusers_folder.py    any other pipeline of diffusers
generate/              `dreamfactory generate`        upscale.py            `dreamfactory upscale`
lora.py                LoRA files on a network        describe.py           what a network is
placement.py, turns.py where networks are computed, and how they take turns on a small card
page.py                pages for people: one HTML file each, and the numbers on them
tables.py              rows of a .jsonl, .csv or .parquet
media/                 all reading and writing of pictures and video, and of the words beside them
"""
