"""What Load Text Encoder offers, and when it loads again."""

import pytest

from .server import run_inside

SCRIPT = """
from pathlib import Path
import folder_paths
root = Path(sys.argv[1])
folder_paths.folder_names_and_paths["text_encoders"] = ([str(root)], {".safetensors"})
from a_pack.nodes.loaders import LoadTextEncoder
listed = LoadTextEncoder.define_schema().inputs[0].options
stamps = []
for content in (b"one", b"another"):
    (root / "whole" / "model.safetensors").write_bytes(content)
    stamps.append(LoadTextEncoder.fingerprint_inputs("whole"))
print(json.dumps({"listed": listed, "stamps": stamps}))
"""


@pytest.fixture(scope="module")
def facts(host, tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    files = [
        "config.json",  # lost here by somebody
        "bare.safetensors",
        "whole/config.json",
        "whole/model.safetensors",
        "half/config.json",
        "half/model.fp16.safetensors",
        "shards/config.json",
        "shards/model-00001-of-00002.safetensors",
        "shards/model-00002-of-00002.safetensors",
        "deep/er/text encoder/config.json",
        "deep/er/text encoder/model.safetensors",
        "no_config/model.safetensors",
    ]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"{}")
    (root / "linked").symlink_to(root / "whole", target_is_directory=True)
    (root / "gone").mkdir()
    (root / "gone" / "model.safetensors").symlink_to(root / "nowhere.safetensors")
    return run_inside(host, SCRIPT, root)


def test_folders_stand_for_their_weights_and_other_files_for_themselves(facts):
    assert facts["listed"] == [
        "bare.safetensors",
        "deep/er/text encoder",
        "gone/model.safetensors",  # a link to what is there no longer must not take the list with it
        "half/model.fp16.safetensors",
        "linked",
        "no_config/model.safetensors",
        "shards",
        "whole",
    ]


def test_a_folder_written_over_in_place_is_loaded_again(facts):
    before, after = facts["stamps"]
    assert before != after
