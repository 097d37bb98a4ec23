"""Cards and model files: what is written is read back, and what is wrong is refused with a cure."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_model import random_card, write_random_model

from geopanoptic.errors import CheckpointError
from geopanoptic.models import ModelCard, list_models, load_model, read_card
from geopanoptic.models.checkpoint import KEY, read_header, weights_digest
from geopanoptic.schema import LabelSchema


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    write_random_model(path)
    return path


def rewritten(source: Path, target: Path, change_head: object = None, cut: int = 0) -> Path:
    """Copy a model file with a changed header, or cut short by some bytes."""
    raw = source.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + n])
    if callable(change_head):
        change_head(head)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    data = raw[8 + n :]
    target.write_bytes(len(text).to_bytes(8, "little") + text + data[: len(data) - cut])
    return target


def test_a_card_is_read_back_as_it_was_written() -> None:
    card = random_card(
        least_area_m2={"building": 6.0},
        training_data=({"name": "somewhere", "licence": "CC0"},),
        metrics=({"what": "F1", "value": 0.5},),
    )
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert card.min_area_m2("building") == 6.0
    assert card.min_area_m2("vehicle") == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"card_version": 99}, "update geopanoptic"),
        ({"preferred_gsd": 0.3}, "did you mean 'preferred_gsd_m'"),
        ({"core": "big"}, "must be int"),
        ({"core": 10}, "make no tile"),
        ({"gsd_range_m": [0.5, 0.6]}, "preferred_gsd_m"),
        ({"std": [0, 1, 1]}, "std"),
        ({"mean": [1.0]}, "mean and std"),
        ({"classes": [{"id": 1}]}, "classes are wrong"),
        ({"sha256": "abc"}, "sha256"),
        ({"bands": ["red", 2, "blue"]}, "must be tuple"),
        ({"thresholds": {"building_region": "high"}}, "thresholds"),
    ],
)
def test_a_card_with_a_mistake_is_refused_by_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        ModelCard.from_json(random_card().to_json() | change)


def test_a_card_with_an_entry_missing_is_refused() -> None:
    raw = random_card().to_json()
    del raw["licence"]
    with pytest.raises(CheckpointError, match="lacks licence"):
        ModelCard.from_json(raw)
    with pytest.raises(CheckpointError, match="not a table"):
        ModelCard.from_json([1, 2])


def test_reading_cards_needs_no_torch() -> None:
    code = (
        "import sys; from geopanoptic.models import list_models; list_models(); "
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_file_gives_its_card_and_a_working_segmenter(model_file: Path) -> None:
    card = read_card(model_file)
    segmenter = load_model(model_file)
    assert segmenter.card == card
    assert card.sha256 != "0" * 64
    chips = np.random.default_rng(0).integers(0, 256, (2, 3, 70, 90), np.uint8)
    valid = np.ones((2, 70, 90), bool)
    valid[1, :10] = False
    tiles = segmenter.segment(chips, valid)
    fields = segmenter.forward(chips)
    # stuff is averaged over a few pixels, so only nearly
    assert np.allclose(fields["semantic"].sum(1), 1, atol=0.1)
    for i, tile in enumerate(tiles):
        assert tile.stuff.shape == tile.instance.shape == tile.score.shape == (70, 90)
        assert ((tile.stuff == 0) == ~valid[i]).all()
        assert (tile.score[valid[i]] <= 200).all()
        assert (tile.score[~valid[i]] == 255).all()
        assert tile.instance.max() == len(tile.class_of) - 1
        one = segmenter.decode({k: v[i] for k, v in fields.items()}, valid[i])
        assert all(np.array_equal(a, b) for a, b in zip(one, tile, strict=True))


def test_float_and_byte_chips_of_the_same_values_mean_the_same(model_file: Path) -> None:
    segmenter = load_model(model_file)
    chips = np.random.default_rng(1).integers(0, 256, (1, 3, 64, 64), np.uint8)
    a, b = segmenter.forward(chips), segmenter.forward(chips.astype(np.float32))
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_an_unknown_model_names_the_bundled_ones() -> None:
    with pytest.raises(CheckpointError, match=r"no model 'landcover-vO'"):
        read_card("landcover-vO")


def test_every_bundled_model_keeps_its_promise() -> None:
    for card in list_models():
        segmenter = load_model(card.name)
        assert segmenter.card == card
        assert card.licence
        assert card.training_data
        assert card.metrics


class Evil:
    """Leaves a trace where its pickle is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def evil_file(path: Path, trace: Path) -> Path:
    """Write a pickle, or torch's zip of one, that leaves `trace` when anyone loads it."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(Evil(trace)))
        return path
    import torch

    torch.save({"weights": Evil(trace)}, path)
    return path


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl", "model.safetensors"])
def test_a_pickle_is_never_loaded(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with evil_file(tmp_path / "check.pkl", trace).open("rb") as file:
        pickle.load(file)
    assert trace.exists(), "this pickle would do harm"
    trace.unlink()
    path = evil_file(tmp_path / ("x.pkl" if name == "model.pkl" else "x.pt"), trace)
    path = path.rename(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"a PyTorch pickle.*never loaded"):
        load_model(path)
    assert not trace.exists()


def test_a_pickle_as_encoder_weights_runs_no_code(tmp_path: Path) -> None:
    from geopanoptic.train.start import _encoder_weights

    path = evil_file(tmp_path / "encoder.pth", tmp_path / "trace")
    with pytest.raises(CheckpointError, match="cannot read the encoder weights"):
        _encoder_weights(path, None)
    assert not (tmp_path / "trace").exists()


def test_files_and_headers_have_limits(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geopanoptic.models.checkpoint.MAX_FILE_BYTES", 1000)
    with pytest.raises(CheckpointError, match="models above 1000 are refused"):
        read_card(model_file)
    monkeypatch.setattr("geopanoptic.models.checkpoint.MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_card(model_file)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"bands": ["a", "b"], "mean": [0, 0], "std": [1, 1]}, "names 2 bands, its network takes"),
        ({"classes": LabelSchema.default().subset(["building", "tree"]).to_json()}, "do not fit"),
        ({"arguments": {"decoder_channels": [10**9, 16, 16, 8]}}, "1 to 65536 channels"),
        ({"arguments": {"in_channels": "three"}}, "argument of the dense architecture is wrong"),
    ],
)
def test_a_card_that_lies_about_its_network_is_refused(
    model_file: Path, tmp_path: Path, entries: dict[str, object], said: str
) -> None:
    def change(head: dict[str, dict[str, str]]) -> None:
        card = json.loads(head["__metadata__"][KEY])
        thresholds = {k: v for k, v in card["thresholds"].items() if "vehicle" not in k}
        lie = {"thresholds": thresholds} if "classes" in entries else {}
        head["__metadata__"][KEY] = json.dumps(card | lie | entries)

    path = rewritten(model_file, tmp_path / "lie.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


@pytest.mark.parametrize("size", [0, 3, 8, 40])
def test_a_stump_of_a_file_is_refused(model_file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "stump.safetensors"
    path.write_bytes(model_file.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        read_card(path)


def test_a_truncated_file_is_refused_with_the_numbers(model_file: Path, tmp_path: Path) -> None:
    path = rewritten(model_file, tmp_path / "cut.safetensors", cut=100)
    with pytest.raises(CheckpointError, match=r"truncated or damaged: [0-9]+ bytes"):
        read_card(path)


def test_weights_without_a_card_are_refused(model_file: Path, tmp_path: Path) -> None:
    path = rewritten(model_file, tmp_path / "bare.safetensors", lambda h: h.pop("__metadata__"))
    with pytest.raises(CheckpointError, match="no model card"):
        read_card(path)


def test_altered_weights_are_refused(model_file: Path, tmp_path: Path) -> None:
    raw = bytearray(model_file.read_bytes())
    raw[-5] ^= 255
    path = tmp_path / "altered.safetensors"
    path.write_bytes(raw)
    read_card(path)  # the card alone says nothing about the weights
    with pytest.raises(CheckpointError, match="are not those of its card"):
        load_model(path)


def test_a_card_of_another_architecture_does_not_take_the_weights(
    model_file: Path, tmp_path: Path
) -> None:
    def widen(head: dict[str, dict[str, str]]) -> None:
        card = json.loads(head["__metadata__"][KEY])
        card["arguments"]["decoder_channels"] = [64, 16, 16, 8]
        head["__metadata__"][KEY] = json.dumps(card)

    path = rewritten(model_file, tmp_path / "wide.safetensors", widen)
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        load_model(path)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("architecture", "transformer", "has the architecture 'transformer'"),
        ("decoder", "magic", "wants the decoder 'magic'"),
        ("arguments", {"encoders": "x"}, "did you mean 'encoder'"),
        ("thresholds", {"building_regio": 0.5}, "did you mean 'building_region'"),
    ],
)
def test_a_card_this_program_cannot_serve_is_refused(
    model_file: Path, tmp_path: Path, entry: str, value: object, said: str
) -> None:
    def change(head: dict[str, dict[str, str]]) -> None:
        card = json.loads(head["__metadata__"][KEY])
        head["__metadata__"][KEY] = json.dumps(card | {entry: value})

    path = rewritten(model_file, tmp_path / "other.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_lying_offsets_are_refused(model_file: Path, tmp_path: Path) -> None:
    def overlap(head: dict[str, dict[str, list[int]]]) -> None:
        first, second = sorted(
            (k for k in head if k != "__metadata__"), key=lambda k: head[k]["data_offsets"][0]
        )[:2]
        a, b = head[second]["data_offsets"]
        shift = head[first]["data_offsets"][0] - a
        head[second]["data_offsets"] = [a + shift, b + shift]

    path = rewritten(model_file, tmp_path / "overlap.safetensors", overlap)
    with pytest.raises(CheckpointError, match="overlap or leave gaps"):
        read_header(path)


def test_the_digest_depends_on_names_shapes_and_bytes() -> None:
    a = {"x": np.zeros((2, 3), np.float16)}
    same = weights_digest({"x": np.zeros((2, 3), np.float16)})
    assert weights_digest(a) == same
    assert weights_digest({"y": a["x"]}) != same
    assert weights_digest({"x": a["x"].reshape(3, 2)}) != same
    assert weights_digest({"x": a["x"] + 1}) != same
