"""What a run's encoders are known by when it is gone on with."""

from dreamfactory.training.run_file import load_run
from dreamfactory.training.video.models import encoder_fingerprints


def test_only_the_codec_called_demo_is_the_demos(tmp_path, monkeypatch):
    """An encoder's folder may be called so too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    config = load_run("demo", ["encoders.text=demo"])
    before = encoder_fingerprints(config)
    assert before["text"] != before["codec"]
    (tmp_path / "demo" / "config.json").write_text('{"changed": 1}')
    after = encoder_fingerprints(config)
    assert after["text"] != before["text"]
    assert after["codec"] == before["codec"]
