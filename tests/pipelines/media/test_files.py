"""Pictures and clips as files: what is written comes back."""

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfactory.pipelines.media.files import read_image, write_video

from ...videos import read_video


def test_pictures_of_every_kind_become_rgb(tmp_path):
    for mode in ("L", "LA", "RGB", "RGBA", "P", "1", "CMYK", "I;16"):
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.new(mode, (30, 20)).save(tmp_path / f"x.{suffix}")
        assert read_image(tmp_path / f"x.{suffix}", 16, 16).shape == (1, 3, 16, 16)
    grey = np.full((8, 8), 32768, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", 8, 8).mean() == pytest.approx(0.5, abs=0.01)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    assert torch.equal(read_image(tmp_path / "one.png", 8, 8)[0, :, 4, 4], torch.tensor([1.0, 0.0, 0.0]))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 8, 8).min() == 1.0  # transparent lies on white


def test_video_files_keep_pixels_and_settings(tmp_path):
    clip = torch.rand(5, 3, 4, 6)[..., None, :, None].expand(-1, -1, -1, 8, -1, 8).reshape(5, 3, 32, 48)
    write_video(tmp_path / "x.mp4", clip, 12, settings={"seed": 3, "text": "é 猫"})
    back, settings = read_video(tmp_path / "x.mp4")
    assert back.shape == clip.shape
    assert settings == {"seed": 3, "text": "é 猫"}
    assert (back.mean(1) - clip.mean(1)).abs().mean() < 0.06  # H.264 halves the resolution of colour
