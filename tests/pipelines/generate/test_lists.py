"""`dreamfactory generate --prompts`: lists of clips, gone on with after a kill, shared by processes."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from dreamfactory.errors import InputError
from dreamfactory.model_patches import ConfigError
from dreamfactory.pipelines import image_to_video
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.pipelines.generate import studio
from dreamfactory.pipelines.generate.processes import Processes, processes
from dreamfactory.pipelines.lock import sole
from dreamfactory.pipelines.media.files import read_settings

from ...processes import end, send, start, together
from ...videos import read_video
from .test_clip import painter, run, text_alone  # noqa: F401  (fixtures)

KILLS = int(os.environ.get("KILLS", "3"))
PROMPTS = int(os.environ.get("PROMPTS", "24"))


def write(path, *lines):
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def files(folder):
    """{name: what is in it}"""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("[!.]*"))}


def index(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().split("\n") if line]


# -- what comes out -----------------------------------------------------------------------------------------------


def test_a_list(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(
        tmp_path / "list.jsonl",
        {"text": "a red circle", "motion": "it moves up"},
        "",
        {"text": "a blue star", "seed": 70, "frames": 2, "out": "star.mp4"},
        {"text": "a heart", "size": "64x40", "fps": 12, "guidance-scale": 5},
    )
    out = tmp_path / "clips"
    code, printed, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", out, "--seed", 10)
    assert (code, printed.strip()) == (0, str(out)), err
    names = ["00001.mp4", "00001_sheet.png", "00004.mp4", "00004_sheet.png", "index.jsonl", "run.json"]
    assert sorted(p.name for p in out.glob("[!.]*")) == [*names, "star.mp4", "star_sheet.png"]
    rows = index(out)
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert [row["seed"] for row in rows] == [10, 70, 12]  # counts on, but where a line says its own
    assert [row["file"] for row in rows] == ["00001.mp4", "star.mp4", "00004.mp4"]
    assert rows[2]["guidance_scale"] == 5
    assert read_video(out / "star.mp4")[0].shape == (2, 3, 32, 48)
    assert read_video(out / "00004.mp4")[0].shape == (4, 3, 40, 64)
    assert "3 of 3 clips, 0 of them there before" in err
    for row in rows:  # the index says what the clips themselves say
        told = read_settings(out / row["file"])
        assert {k: v for k, v in row.items() if k not in ("line", "file", "sheet")} == told


def test_a_clip_of_a_list_is_the_clip_alone(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a red circle"}, {"text": "a star", "seed": 3, "steps": 3})
    run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips", "--no-sheets")
    alone = ("--checkpoint", text_alone, "--text", "a star", "--seed", 3, "--steps", 3)
    run(capsys, *alone, "--out", tmp_path / "alone.mp4")
    assert torch.equal(read_video(tmp_path / "alone.mp4")[0], read_video(tmp_path / "clips" / "00002.mp4")[0])
    assert sorted(p.name for p in (tmp_path / "clips").glob("*.png")) == []


def test_pictures_are_named_from_the_list_s_folder(capsys, tmp_path):
    (tmp_path / "red.png").write_bytes((DEMO / "pictures" / "red_circle.png").read_bytes())
    prompts = write(tmp_path / "list.jsonl", {"image": "red.png", "motion": "it moves up", "frames": 2, "steps": 1})
    code, _, err = run(capsys, "--prompts", prompts, "--out", tmp_path / "clips")
    assert code == 0, err
    assert index(tmp_path / "clips")[0]["image"] == str(tmp_path / "red.png")


def test_first_frames_of_a_list_are_drawn_first(capsys, painter, tmp_path):  # noqa: F811
    own = str(DEMO / "pictures" / "blue_square.png")
    prompts = write(
        tmp_path / "list.jsonl",
        {"text": "a red circle", "motion": "it moves up"},
        {"image": own, "motion": "it moves up"},
        {"text": "a star", "motion": "it grows", "first_frame_seed": 4, "first_frame_size": "32x32"},
    )
    drawn = ("--first-frame-from", painter, "--first-frame-steps", 1, "--first-frame-size", "64x64")
    fixed = ("--prompts", prompts, *drawn, "--frames", 2, "--steps", 1, "--out", tmp_path / "clips")
    code, _, err = run(capsys, *fixed)
    assert code == 0, err
    rows = index(tmp_path / "clips")
    assert [row.get("first_frame") for row in rows] == ["00001_first_frame.png", None, "00003_first_frame.png"]
    assert rows[1]["image"] == own
    before = files(tmp_path / "clips")
    (tmp_path / "clips" / "00003.mp4").unlink()  # its picture is there: it is not drawn again
    code, _, err = run(capsys, *fixed)
    assert "drawing" not in err
    assert files(tmp_path / "clips") == before


def test_a_picture_that_is_gone_is_drawn_again_for_its_neighbours(capsys, painter, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", *({"text": f"a {x}", "motion": "up"} for x in ("circle", "star", "heart")))
    drawn = ("--first-frame-from", painter, "--first-frame-steps", 1, "--first-frame-size", "64x64")
    fixed = ("--prompts", prompts, *drawn, "--frames", 2, "--steps", 1, "--batch", 3, "--out", tmp_path / "clips")
    assert run(capsys, *fixed)[0] == 0
    before = files(tmp_path / "clips")
    (tmp_path / "clips" / "00001_first_frame.png").unlink()  # of a clip that is there
    code, _, err = run(capsys, *fixed)
    assert (code, "drawing" in err) == (0, False)  # and of no use to anyone
    (tmp_path / "clips" / "00002.mp4").unlink()
    code, _, err = run(capsys, *fixed)
    assert code == 0
    assert files(tmp_path / "clips") == before


def test_sheets_are_named_where_they_are(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a circle"}, {"text": "a star"})
    fixed = ("--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    assert run(capsys, *fixed, "--no-sheets")[0] == 0
    assert not any("sheet" in row for row in index(tmp_path / "clips"))
    (tmp_path / "clips" / "00002.mp4").unlink()
    code, _, err = run(capsys, *fixed)
    assert code == 0
    assert "1 of the clips that are there have no sheet" in err
    assert [row.get("sheet") for row in index(tmp_path / "clips")] == [None, "00002_sheet.png"]
    assert run(capsys, *fixed, "--no-sheets")[0] == 0
    assert [row.get("sheet") for row in index(tmp_path / "clips")] == [None, "00002_sheet.png"]


# -- going on -----------------------------------------------------------------------------------------------------


def test_a_list_goes_on_where_it_stopped(capsys, text_alone, tmp_path):  # noqa: F811
    lines = [{"text": f"a red circle {'moves ' * (i % 3)}up"} for i in range(7)]
    prompts = write(tmp_path / "list.jsonl", *lines)
    fixed = ("--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips", "--batch", 3)
    run(capsys, *fixed)
    whole = files(tmp_path / "clips")
    for name in ("00002.mp4", "00002_sheet.png", "00005.mp4", "00007.mp4", "index.jsonl"):
        (tmp_path / "clips" / name).unlink()
    (tmp_path / "clips" / ".00007.mp4.abc12345.dreamfactory.tmp").write_bytes(b"half")  # what a kill leaves
    (tmp_path / "clips" / ".notes.tmp").write_bytes(b"somebody's own")
    code, _, err = run(capsys, *fixed)
    assert code == 0
    assert "4 of them there before" in err
    assert files(tmp_path / "clips") == whole
    assert [p.name for p in (tmp_path / "clips").glob(".*.tmp")] == [".notes.tmp"]
    write(prompts, *lines, {"text": "a star"})  # a longer list keeps what there is
    code, _, err = run(capsys, *fixed)
    assert "8 of 8 clips, 7 of them there before" in err
    assert {k: v for k, v in files(tmp_path / "clips").items() if k in whole and k != "index.jsonl"} == {
        k: v for k, v in whole.items() if k != "index.jsonl"
    }


def test_another_list_or_network_is_refused(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a red circle"})
    fixed = ("--prompts", prompts, "--out", tmp_path / "clips", "--quiet")
    assert run(capsys, "--checkpoint", text_alone, *fixed)[0] == 0
    before = files(tmp_path / "clips")
    for args, sentence in (
        (("--checkpoint", text_alone, "--seed", 3), "another seed (0, here 3)"),
        (("--checkpoint", text_alone, "--steps", 1), "another steps"),
        (("--checkpoint", "demo", "--image", DEMO / "pictures" / "red_circle.png"), "another checkpoint"),
        (("--checkpoint", text_alone, "--batch", 2), "another batch"),
        (("--checkpoint", text_alone, "--upscale", "demo"), "another upscale (null, here"),
    ):
        code, _, err = run(capsys, *args, *fixed)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert sentence in err
        assert "choose another --out" in err
    assert files(tmp_path / "clips") == before
    weights = text_alone / "unet.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")  # other weights under the same name
    code, _, err = run(capsys, "--checkpoint", text_alone, *fixed)
    weights.write_bytes(kept)
    assert code == 2
    assert f"other weights: {text_alone} has changed since" in err
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.mp4").write_bytes(b"x")
    code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "holiday")
    assert "holds beach.mp4 and no run.json" in err


def test_a_picture_that_has_changed_is_no_longer_the_clip_s(capsys, tmp_path):
    for name in ("red_circle", "blue_square"):
        (tmp_path / f"{name}.png").write_bytes((DEMO / "pictures" / f"{name}.png").read_bytes())
    prompts = write(tmp_path / "list.jsonl", {"image": "red_circle.png", "motion": "up", "frames": 2, "steps": 1})
    assert run(capsys, "--prompts", prompts, "--out", tmp_path / "clips")[0] == 0
    shutil.copy(tmp_path / "blue_square.png", tmp_path / "red_circle.png")
    code, _, err = run(capsys, "--prompts", prompts, "--out", tmp_path / "clips", "--quiet")
    assert code == 2
    assert "was made from a picture that has changed since" in err


def test_clips_of_lines_that_are_gone_are_named(capsys, text_alone, tmp_path):  # noqa: F811
    fixed = ("--checkpoint", text_alone, "--out", tmp_path / "clips", "--quiet")
    first = write(tmp_path / "a.jsonl", {"text": "a", "out": "a.mp4"}, {"text": "b", "out": "b.mp4"})
    assert run(capsys, *fixed, "--prompts", first)[0] == 0
    code, _, err = run(capsys, *fixed, "--prompts", write(tmp_path / "b.jsonl", {"text": "c", "out": "c.mp4"}))
    assert code == 0
    assert "2 clips in" in err
    assert "are of no line of the list, a.mp4 first; they stay" in err
    assert sorted(p.name for p in (tmp_path / "clips").glob("*.mp4")) == ["a.mp4", "b.mp4", "c.mp4"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"batch": 0}', '{"batch": "two"}', "{"])
def test_what_a_folder_was_begun_with_may_be_damaged(capsys, text_alone, tmp_path, text):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a"})
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "run.json").write_text(text)
    code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "run.json " in err
    assert "choose another --out, or delete it" in err


def test_weights_that_are_no_list_of_files_are_other_weights(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a"})
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "run.json").write_text('{"batch": 1, "weights": "two"}')
    code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"holds clips of other weights: {text_alone} has changed since" in err


@pytest.mark.parametrize(("code", "ends"), [("None", 0), ("3", 3), ("'told'", 1)])
def test_a_process_that_joined_others_leaves_as_sys_exit_does(code, ends):
    script = f"from dreamfactory.pipelines.generate import processes as p; p.joined = True; p.leave({code})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (ends, "told\n" if ends == 1 else "")


def test_a_list_does_not_go_where_it_reads(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts, encoder = write(tmp_path / "list.jsonl", {"text": "a"}), tmp_path / "encoder"
    shutil.copytree(text_alone / "text_encoder", encoder)
    own = ("--checkpoint", text_alone, "--text-encoder", encoder, "--prompts", prompts)
    for out in (encoder / "clips", text_alone / "clips"):
        code, _, err = run(capsys, *own, "--out", out)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert "which is read; choose a folder of its own" in err
    monkeypatch.chdir(tmp_path)  # a folder named as a demo is not the demo's
    picture = DEMO / "pictures" / "red_circle.png"
    code, _, err = run(
        capsys, "--image", picture, "--frames", 2, "--steps", 1, "--prompts", prompts, "--out", "demo/clips"
    )
    assert code == 0, err


def test_two_runs_do_not_share_a_folder(capsys, text_alone, tmp_path):  # noqa: F811
    prompts, out = write(tmp_path / "list.jsonl", {"text": "a red circle"}), tmp_path / "clips"
    out.mkdir()
    with sole(out / ".lock"):
        code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", out)
    assert code == 2
    assert "another run is writing to" in err
    assert [p.name for p in out.iterdir()] == [".lock"]


def test_a_list_begun_with_an_upscaler_does_not_go_on_without(capsys, text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a red circle"})
    fixed = ("--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips", "--quiet")
    assert run(capsys, *fixed, "--upscale", "demo")[0] == 0
    (tmp_path / "clips" / "00001.mp4").unlink()
    code, _, err = run(capsys, *fixed)
    assert code == 2
    assert 'another upscale ("demo", here null)' in err


def command(checkpoint, prompts, out, *more):
    return [
        "generate", "--checkpoint", str(checkpoint), "--prompts", str(prompts), "--out", str(out),
        "--batch", "4", *more,
    ]  # fmt: skip


def test_killed_at_any_moment_the_same_files(text_alone, tmp_path):  # noqa: F811
    """KILLS=10 PROMPTS=200 for the whole of it: SIGKILL at random moments, then to the end."""
    shapes, ways = ("circle", "star", "heart"), ("up", "left", "down and to the right")
    lines = [{"text": f"a red {shapes[i % 3]}", "motion": f"it moves {ways[i % 2]}"} for i in range(PROMPTS)]
    prompts = write(tmp_path / "list.jsonl", *lines)

    def begin(out):
        return start(command(text_alone, prompts, out, "--upscale", "demo"), tmp_path / "log.txt")

    assert end(begin(tmp_path / "whole")) == 0
    draw, halves, counts = random.Random(0), 0, []
    out = tmp_path / "killed"
    for kill in range(KILLS):
        process, there = begin(out), len(list(out.glob("*.mp4")))
        wanted = there + draw.randint(0, (PROMPTS - there) // (KILLS - kill + 1))
        while process.is_alive() and len(list(out.glob("*.mp4"))) < wanted:
            time.sleep(0.02)
        # Every other time anywhere in the work that follows, else in the middle of a file.
        ends = time.monotonic() + (draw.random() * 0.3 if kill % 2 else 10)
        while process.is_alive() and time.monotonic() < ends and (kill % 2 or not list(out.glob(".*.mp4.*.tmp"))):
            time.sleep(0.001)
        send(process, signal.SIGKILL)
        if end(process) != -signal.SIGKILL:  # it was quicker: half of its work is to be done again
            for clip in sorted(out.glob("*.mp4"))[PROMPTS // 2 :]:
                clip.unlink()
            continue
        halves += bool(list(out.glob(".*.tmp")))
        for clip in out.glob("*.mp4"):
            assert read_video(clip)[0].shape == (4, 3, 128, 192)  # whole, whenever it is there
        counts.append(len(list(out.glob("*.mp4"))))
    assert end(begin(out)) == 0
    assert counts
    print(f"{len(counts)} kills, {halves} of them in the middle of a file, after {counts} clips")
    assert files(out) == files(tmp_path / "whole")


def test_two_processes_make_the_files_of_one(text_alone, tmp_path):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", *({"text": f"a red circle {'up ' * i}"} for i in range(9)))
    assert end(start(command(text_alone, prompts, tmp_path / "one"), tmp_path / "log.txt")) == 0
    done = together(command(text_alone, prompts, tmp_path / "two"))
    assert [code for code, _, _ in done] == [0, 0], done
    assert "".join(out for _, out, _ in done).strip() == str(tmp_path / "two")  # told once
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_processes_refuse_with_one_voice(text_alone, tmp_path, stack):  # noqa: F811
    """What is wrong is said once, whether arguments, a line, or the folder are to blame."""
    bad = write(tmp_path / "bad.jsonl", {"text": "a"}, {"txt": "b"})
    good = write(tmp_path / "good.jsonl", {"text": "a"})
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.mp4").write_bytes(b"x")
    lists = (bad, tmp_path / "a"), (good, tmp_path / "holiday"), (good, tmp_path / "held"), (good, tmp_path / "other")
    assert end(start(command(text_alone, *lists[3]), tmp_path / "log.txt")) == 0
    (tmp_path / "held").mkdir()
    stack.enter_context(sole(tmp_path / "held" / ".lock"))
    for args, sentence in (
        (command(text_alone, *lists[2]), "another run is writing to"),
        (command(text_alone, *lists[3], "--seed", "3"), "another seed"),
        (command(text_alone, *lists[0]), "did you mean 'text'?"),
        (command(text_alone, *lists[1]), "holds beach.mp4 and no run.json"),
        (command(text_alone, *lists[1], "--lora", "x.safetensors:much"), "much"),
        (command(text_alone, *lists[1], "--steps", "many"), "expected a whole number"),
    ):
        told = [err for _, _, err in together(args)]
        assert "Traceback" not in "".join(told)
        waiting = "note: one of 2 processes; waiting for the others.\n"
        told = [err.replace(waiting, "") for err in told]
        assert sorted(len(err.strip().splitlines()) for err in told) == [0, 1], told
        assert sentence in "".join(told)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_picture_of_another_run_stops_all_processes_before_any_draws(painter, tmp_path):  # noqa: F811
    lines = [{"text": f"a {shape}", "motion": "it moves up"} for shape in ("circle", "star", "heart")]
    prompts, out = write(tmp_path / "list.jsonl", *lines), tmp_path / "clips"
    drawn = ("--first-frame-from", str(painter), "--first-frame-size", "64x64", "--frames", "2", "--steps", "1")
    args = command("demo", prompts, out, *drawn)
    args[args.index("--batch") + 1] = "1"
    assert end(start([*args, "--first-frame-steps", "1"], tmp_path / "log.txt")) == 0
    for name in ("00001.mp4", "00002.mp4", "00003.mp4", "00002_first_frame.png", "00003_first_frame.png"):
        (out / name).unlink()
    before = files(out)
    done = together([*args, "--first-frame-steps", "2"])
    told = "".join(err for _, _, err in done)
    assert [code for code, _, _ in done] == [2, 2]
    assert told.count("another first frame steps (1, here 2)") == 1
    assert "Traceback" not in told
    assert {k: v for k, v in files(out).items() if k != "index.jsonl"} == {
        k: v for k, v in before.items() if k != "index.jsonl"
    }


@pytest.mark.parametrize("told", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "two", "RANK": "0"}])
def test_what_a_cluster_leaves_in_the_environment_starts_nothing(told, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert processes("cpu") == Processes()


# -- what fails ---------------------------------------------------------------------------------------------------


def test_failures_are_named_at_the_end_and_cost_the_others_nothing(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", *({"text": text} for text in ("a", "bad", "c", "worse", "e")))
    fixed = ("--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    real = image_to_video.animate

    def animate(bundle, images, text, *more, **named):
        if {"bad", "worse"} & set(text):
            raise InputError("sampling ended in numbers that are no picture.")
        return real(bundle, images, text, *more, **named)

    monkeypatch.setattr(studio, "animate", animate)
    code, printed, err = run(capsys, *fixed)
    assert (code, printed) == (3, "")
    told = err.strip().splitlines()[-3:]
    assert told[0].startswith("2 clips of")
    assert told[1] == "line 2, 00002.mp4: sampling ended in numbers that are no picture."
    assert told[2].startswith("line 4, 00004.mp4")
    assert [row.get("error", "") != "" for row in index(tmp_path / "clips")] == [False, True, False, True, False]
    assert sorted(p.name for p in (tmp_path / "clips").glob("*.mp4")) == ["00001.mp4", "00003.mp4", "00005.mp4"]
    monkeypatch.setattr(studio, "animate", real)
    code, _, err = run(capsys, *fixed)  # the same command tries them again
    assert code == 0
    assert "5 of 5 clips, 3 of them there before" in err
    assert not any("error" in row for row in index(tmp_path / "clips"))


def test_a_clip_that_cannot_be_enlarged_costs_the_others_nothing(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", *({"text": text} for text in ("a", "b\u2028c", "d")))
    fixed = ("--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    real, calls = studio.write_video, []

    def fail(*args, **named):
        calls.append(args)
        if len(calls) == 2:
            raise ConfigError("it does not fit the memory of the card.")
        real(*args, **named)

    monkeypatch.setattr(studio, "write_video", fail)
    code, _, err = run(capsys, *fixed)
    assert code == 3
    assert "line 2, 00002.mp4: it does not fit the memory of the card." in err
    assert sorted(p.name for p in (tmp_path / "clips").glob("*.mp4")) == ["00001.mp4", "00003.mp4"]
    assert ["error" in row for row in index(tmp_path / "clips")] == [False, True, False]


def test_a_disk_that_is_full_is_told_in_a_sentence(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a"})

    def full(path, *args, **named):
        raise InputError(f"{path} cannot be written: No space left on device; choose another place.")

    monkeypatch.setattr(studio, "clip_sheet", full)
    code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips", "--quiet")
    assert code == 2
    assert "00001_sheet.png cannot be written: No space left" in err
    assert len(err.strip().splitlines()) == 1


def test_a_list_writes_over_nothing_that_it_reads_or_finds(capsys, text_alone, tmp_path):  # noqa: F811
    fixed, clips = ("--checkpoint", text_alone, "--out", tmp_path / "clips"), tmp_path / "clips"
    clips.mkdir()
    inside = write(clips / "index.jsonl", {"text": "a"})
    for prompts, sentence in (
        (inside, "index.jsonl would be written over by what the list makes"),
        (write(tmp_path / "list.jsonl", {"text": "a"}), "holds index.jsonl and no run.json"),
    ):
        code, _, err = run(capsys, *fixed, "--prompts", prompts)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert sentence in err
    inside.unlink()
    shutil.copy(DEMO / "pictures" / "red_circle.png", clips / "00002_sheet.png")
    lines = {"image": "clips/00002_sheet.png", "motion": "left"}, {"image": "clips/00002_sheet.png", "motion": "up"}
    code, _, err = run(capsys, "--out", clips, "--prompts", write(tmp_path / "list.jsonl", *lines))
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "00002_sheet.png would be written over" in err
    assert [p.name for p in clips.iterdir()] == ["00002_sheet.png"]


@pytest.mark.parametrize("length", [0, 20, 3000])
def test_a_clip_that_was_cut_short_is_made_again(capsys, text_alone, tmp_path, length):  # noqa: F811
    fixed = ("--checkpoint", text_alone, "--prompts", write(tmp_path / "list.jsonl", {"text": "a"}, {"text": "b"}))
    fixed += ("--out", tmp_path / "clips")
    assert run(capsys, *fixed)[0] == 0
    before = files(tmp_path / "clips")
    clip = tmp_path / "clips" / "00001.mp4"
    assert clip.stat().st_size > 3000
    clip.write_bytes(clip.read_bytes()[:length])
    code, _, err = run(capsys, *fixed)
    assert code == 0
    assert "1 of them there before" in err
    assert files(tmp_path / "clips") == before


def test_a_cut_clip_that_cannot_be_made_again_is_no_success(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    fixed = ("--checkpoint", text_alone, "--prompts", write(tmp_path / "list.jsonl", {"text": "a"}))
    fixed += ("--out", tmp_path / "clips")
    assert run(capsys, *fixed)[0] == 0
    clip = tmp_path / "clips" / "00001.mp4"
    clip.write_bytes(clip.read_bytes()[:3000])

    def fail(*args, **named):
        raise InputError("sampling ended in numbers that are no picture.")

    monkeypatch.setattr(studio, "animate", fail)
    code, _, err = run(capsys, *fixed)
    assert code == 3
    assert "line 1, 00001.mp4: sampling ended in numbers" in err


def test_more_clips_than_memory_holds_go_in_halves(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", *({"text": f"a {i}"} for i in range(5)))
    real, sizes = image_to_video.animate, []

    def animate(bundle, images, text, *more, **named):
        sizes.append(len(text))
        if len(text) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(bundle, images, text, *more, **named)

    monkeypatch.setattr(studio, "animate", animate)
    code, _, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "c", "--batch", 4)
    assert code == 0
    assert sizes == [4, 2, 1, 1, 1, 1, 1]  # what did not fit once is not tried again
    assert "4 clips at once do not fit the memory" in err
    assert len(list((tmp_path / "c").glob("*.mp4"))) == 5


def test_a_bug_is_no_failed_clip(capsys, text_alone, tmp_path, monkeypatch):  # noqa: F811
    prompts = write(tmp_path / "list.jsonl", {"text": "a"})
    monkeypatch.setattr(studio, "animate", lambda *args, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")


WRONG = {
    "empty": ([], "holds no prompt"),
    "blank": (["", "  "], "holds no prompt"),
    "line 7 of 12": ([{"text": "a"}] * 6 + ['{"text": "a"'] + [{"text": "a"}] * 5, "line 7: it is not valid JSON"),
    "a list": (["[1]"], "it is no JSON object"),
    "bare text": (['"a red circle"'], 'write {"text": "a red circle"}'),
    "unknown": ([{"txt": "a"}], "no setting 'txt' of a clip; did you mean 'text'?"),
    "of the whole run": ([{"checkpoint": "x"}], "there is no setting 'checkpoint' of a clip"),
    "number for text": ([{"text": 3}], "text is 3; expected text in quotes"),
    "text for a number": ([{"text": "a", "seed": "3"}], 'seed is "3"; expected a whole number'),
    "true for a number": ([{"text": "a", "steps": True}], "steps is true"),
    "half a step": ([{"text": "a", "steps": 2.5}], "steps is 2.5; expected a whole number"),
    "NaN": (['{"text": "a", "eta": NaN}'], "NaN is no number"),
    "twice": (['{"text": "a", "text": "b"}'], "'text' is there twice"),
    "range": ([{"text": "a", "frames": 0}], "frames is 0; expected 1 to 1024"),
    "size": ([{"text": "a", "size": "4by4"}], "size is '4by4'; write width x height"),
    "sampler": ([{"text": "a", "sampler": "magic"}], "no sampler 'magic'"),
    "multiple": ([{"text": "a", "width": 50}], "multiples of 8"),
    "no caption": ([{}], "say with --text"),
    "picture": ([{"text": "a", "image": "nowhere.png"}], "nowhere.png does not exist"),
    "no place": ([{"text": "a", "image": str(DEMO / "pictures" / "red_circle.png")}], "leave --image out"),
    "path as name": ([{"text": "a", "out": "../x.mp4"}], "expected a file name"),
    "no video": ([{"text": "a", "out": "x.gif"}], "expected a file name that ends in .mp4"),
    "a device": ([{"text": "a", "out": "nul.mp4"}], "a name that Windows cannot have"),
    "a device's name": ([{"text": "a", "out": "COM1 .x.mp4"}], "a name that Windows cannot have"),
    "a time": ([{"text": "a", "out": "12:30.mp4"}], "a name that Windows cannot have"),
    "half a letter": (['{"text": "\\ud83d"}'], "text holds characters that are no text"),
    "a picture drawn and named": (
        [{"image": str(DEMO / "pictures" / "red_circle.png"), "first_frame_steps": 3}],
        "give one of the two",
    ),
    "an array": (["[", '{"text": "a"}', "]"], "write one object a line"),
    "same name": ([{"text": "a", "out": "x.mp4"}, {"text": "b", "out": "X.mp4"}], "as of line 1"),
    "the number's name": ([{"text": "a"}, {"text": "b", "out": "00001.mp4"}], "as of line 1"),
    "no text": (['{"text": "a \\ud800 b"}'], "holds characters that are no text"),
    "a NUL": ([{"text": "a", "out": "a\0.mp4"}], "holds characters that are no text"),
    "a long name": ([{"text": "a", "out": "x" * 300 + ".mp4"}], "304 bytes long; expected up to 200"),
    "a huge number": (['{"text": "a", "eta": 1' + "0" * 400 + "}"], "expected a number that a machine can hold"),
    "nested": (["[" * 100_000], "it is not valid JSON"),
    "a dash and none": (['{"text": "a", "guidance-scale": 1, "guidance_scale": 2}'], "'guidance_scale' is there twice"),
    "several": ([{"text": "a"}, {"sed": 1}, {"text": 3}], "line 2: there is no setting 'sed'"),
    "the same in many": ([{"txt": "a"}] * 9, "9 lines, 1 first: there is no setting"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_costs_one_sentence(capsys, text_alone, tmp_path, case):  # noqa: F811
    lines, sentence = WRONG[case]
    prompts = write(tmp_path / "list.jsonl", *lines)
    code, out, err = run(capsys, "--checkpoint", text_alone, "--prompts", prompts, "--out", tmp_path / "clips")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "clips").exists()


def test_files_that_are_no_list(capsys, text_alone, tmp_path):  # noqa: F811
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    (tmp_path / "bom.jsonl").write_bytes('\ufeff{"text": "a"}\r\n'.encode())
    (tmp_path / "file").write_text("x")
    fixed = ("--checkpoint", text_alone)
    for args, sentence in (
        (("--prompts", tmp_path / "latin.jsonl", "--out", tmp_path / "c"), "is no UTF-8 text; save it as UTF-8"),
        (("--prompts", tmp_path / "nowhere.jsonl", "--out", tmp_path / "c"), "does not exist"),
        (("--prompts", tmp_path / "bom.jsonl", "--out", tmp_path / "c.mp4"), "give a folder"),
        (("--prompts", tmp_path / "bom.jsonl", "--out", tmp_path / "file"), "give a folder"),
        (("--prompts", tmp_path / "bom.jsonl", "--out", tmp_path / "file" / "c"), "cannot be"),
    ):
        code, _, err = run(capsys, *fixed, *args)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert sentence in err
    assert run(capsys, *fixed, "--prompts", tmp_path / "bom.jsonl", "--out", tmp_path / "clips", "--quiet")[0] == 0
