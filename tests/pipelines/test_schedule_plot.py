"""The plot of a noise schedule is whole or not there; the table beside it."""

import pytest
from PIL import Image

from dreamfactory.pipelines.schedule_plot import draw, table
from dreamfactory.schedulers import SCHEDULES, ScheduleConfig

CLIP = (16, 512, 512)


@pytest.mark.parametrize("name", ["factorized-dreamer", "factorized-dreamer-paper", "dynamicrafter-512"])
def test_plot_is_written_whole(tmp_path, name):
    path = draw(tmp_path / "new" / "snr.png", *CLIP, SCHEDULES[name])
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 500
    assert [p.name for p in path.parent.iterdir()] == ["snr.png"]


def test_failed_plot_leaves_what_was_there(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "snr.png"
    path.write_bytes(b"before")

    def full_disk(_, file, **how):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space left"):
        draw(path, *CLIP)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_table_reads_the_ends():
    lines = table(ScheduleConfig().build(*CLIP), rows=5).splitlines()
    assert len(lines) == 6
    assert lines[1].split()[0] == "0"
    assert lines[-1].split() == ["999", "0.000000", "1.000000", "1.0000", "-inf"]
