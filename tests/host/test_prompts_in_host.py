"""One prompt a frame, in a real ComfyUI."""

from .server import ROOT, run_inside

SCRIPT = """
import torch, logging
from pathlib import Path
from a_pack.nodes.prompts import PromptPerFrame, read_prompts, spread
from a_pack.nodes.bridge.text_encoder import load_text_encoder
from a_pack.errors import NodeError

clip = load_text_encoder(Path(sys.argv[1]), dtype=torch.float32)
encode = lambda text: clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[0]
a, b = encode("a red circle"), encode("a blue square")

def rows(text, frames, blend):
    (conditioning,) = PromptPerFrame.execute(clip, text, frames, blend).args
    return conditioning[0][0]

held = rows("2: a red circle\\n4: a blue square", 6, False)
faded = rows("0: a red circle\\n4: a blue square", 6, True)
same = lambda x, y: bool(torch.allclose(x, y, atol=1e-6))
refused = []
for text in ("", "no frame", "9: late", "1: a\\n1: b"):
    try:
        read_prompts(text, 8)
    except NodeError as error:
        refused.append(str(error))
longer = spread({0: torch.ones(1, 2, 3), 1: torch.zeros(1, 3, 3)}, 2, False)
print(json.dumps({
    "held": [same(held[i], a[0]) for i in range(4)] + [same(held[i], b[0]) for i in (4, 5)],
    "faded": [same(faded[i], torch.lerp(a[0], b[0], min(i / 4, 1.0))) for i in range(6)],
    "refused": refused, "longer": list(longer.shape), "empty": same(rows("0:", 1, True)[0], encode("")[0]),
}))
"""


def test_prompts_hold_or_blend_and_mistakes_are_told(host):
    facts = run_inside(host, SCRIPT, ROOT / "pipelines" / "demo" / "text_encoder")
    assert all(facts["held"])
    assert all(facts["faded"])
    assert facts["empty"]
    assert facts["longer"] == [2, 6, 3]
    assert len(facts["refused"]) == 4
    assert all(sentence.startswith("prompts: ") for sentence in facts["refused"])
