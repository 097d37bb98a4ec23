"""Systems that answer with masks: tiny random networks through the main job, and two that learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from affine import Affine
from random_model import random_card

from geopanoptic.errors import CheckpointError
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.models import ModelCard, check_model, load_model, save_model
from geopanoptic.models.systems.segmenter import MaskSegmenter, build
from geopanoptic.panoptic_map import check_map
from geopanoptic.predict import predict
from geopanoptic.schema import LabelSchema

LABELS = {"num_labels": 7}
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1], "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
SWIN = {
    "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
    "window_size": 4, "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
TINY = {
    "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "encoder_feedforward_dim": 16,
    "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2,
    "num_queries": 6, "common_stride": 4, "train_num_points": 256,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "hf_maskformer": {
        "fpn_feature_size": 32, "mask_feature_size": 32, "backbone_config": RESNET, **LABELS,
        "decoder_config": {
            "model_type": "detr", "d_model": 32, "num_queries": 6, "decoder_layers": 1,
            "encoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "decoder_ffn_dim": 16, "encoder_ffn_dim": 16,
        },
    },
    "hf_mask2former": {**TINY, "backbone_config": SWIN, **LABELS},
    "hf_oneformer": {
        "hidden_dim": 32, "conv_dim": 32, "mask_dim": 32, "encoder_feedforward_dim": 16,
        "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2, "query_dec_layers": 1,
        "num_attention_heads": 2, "num_queries": 6, "text_encoder_width": 16,
        "text_encoder_num_layers": 1, "text_encoder_vocab_size": 64, "task_seq_len": 5,
        "text_encoder_context_length": 5, "max_seq_len": 5, "backbone_config": SWIN, **LABELS,
    },
    "hf_eomt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "num_queries": 6, "num_blocks": 1, "num_upscale_blocks": 1,
        "intermediate_size": 32, **LABELS,
    },
    "hf_detr": {
        "d_model": 32, "num_queries": 6, "decoder_layers": 1, "encoder_layers": 1,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, "decoder_ffn_dim": 16,
        "encoder_ffn_dim": 16, "use_timm_backbone": False, "backbone_config": RESNET, **LABELS,
    },
}  # fmt: skip

DETECTORS = ("panoptic_fpn", "mask_rcnn")
SMALL_DETECTOR = {
    "backbone": "resnet18", "detections": 20, "proposals": 40, "samples": 32, "box_channels": 64,
    "pyramid_channels": 64,
    "mask_channels": 32,
}  # fmt: skip
NO_STUFF = LabelSchema(LabelSchema.default().things)


def masks_card(architecture: str, **changes: Any) -> ModelCard:
    config = {"config": CONFIGS.get(architecture, {})}
    arguments = config | ({"task_tokens": [1, 2, 3, 4, 5]} if "oneformer" in architecture else {})
    if architecture in DETECTORS:
        arguments = SMALL_DETECTOR
    if architecture == "panoptic_fpn":
        arguments = arguments | {"semantic_channels": 32}
    if architecture == "mask_rcnn":
        changes = {"schema": NO_STUFF} | changes
    entries: dict[str, Any] = {
        "architecture": architecture, "arguments": arguments, "core": 48, "halo": 8,
        "decoder": "paste" if architecture in DETECTORS else "queries",
        "thresholds": {"score": 0.05},
    }  # fmt: skip
    return random_card(architecture, **(entries | changes))


def saved(path: Path, card: ModelCard, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    net = build(card)
    save_model(path, {k: v.contiguous().numpy() for k, v in net.state_dict().items()}, card)
    return path


def scene_of(path: Path, shape: tuple[int, int] = (70, 90)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=shape[1], height=shape[0], count=3, dtype="uint8",
        crs="EPSG:32631", transform=Affine(0.3, 0, 500000, 0, -0.3, 5000000),
    ) as out:  # fmt: skip
        out.write(pixels)
    return path


@pytest.mark.parametrize("architecture", [*DETECTORS, *CONFIGS])
def test_every_system_predicts_a_scene_end_to_end(architecture: str, tmp_path: Path) -> None:
    if architecture.startswith("hf_"):
        pytest.importorskip("transformers", reason="needs the extra hf")
    model = saved(tmp_path / "m.safetensors", masks_card(architecture))
    out = tmp_path / "m.panoptic"
    panoptic = predict(scene_of(tmp_path / "s.tif"), str(model), out)
    assert check_map(out) == []
    assert not panoptic.info.run["failed_tiles"]
    assert panoptic.info.run["engine"]["name"] == "torch"
    assert (panoptic.semantic.values > 0).all()


def test_a_directory_of_transformers_predicts_as_its_weights_in_one_file(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    card = masks_card("hf_mask2former")
    file = saved(tmp_path / "m.safetensors", card)
    torch.manual_seed(0)
    folder = hub_folder(tmp_path / "folder", card)
    chips = np.random.default_rng(1).integers(0, 256, (1, 3, 64, 64)).astype(np.uint8)
    one, other = (load_model(m).forward(chips) for m in (file, folder))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def hub_folder(folder: Path, card: ModelCard) -> Path:
    """Write a network of random weights as transformers does, with a card beside it."""
    net: Any = build(card)
    net.net.half().float().save_pretrained(folder)  # a model file keeps half precision
    left_out = ("sha256", "arguments", "card_version", "architecture")
    entries = {k: v for k, v in card.to_json().items() if k not in left_out}
    (folder / "card.yaml").write_text(yaml.safe_dump(entries))
    return folder


def test_a_directory_is_read_without_the_network_and_without_its_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    import socket

    from test_models_card import evil_file

    def called(*args: object, **rest: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", called)
    monkeypatch.setattr(socket, "getaddrinfo", called)
    folder = hub_folder(tmp_path / "hub", masks_card("hf_mask2former"))
    config = json.loads((folder / "config.json").read_text())
    away = {"_name_or_path": "somebody/else", "use_pretrained_backbone": True}
    (folder / "config.json").write_text(json.dumps(config | away))
    for name in ("pytorch_model.bin", "model.pth"):
        evil_file(tmp_path / "x.pt", tmp_path / "trace").rename(folder / name)
    chips = np.zeros((1, 3, 64, 64), np.uint8)
    load_model(folder).forward(chips)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.pth, pytorch_model\.bin are pickles"):
        load_model(folder)
    assert not (tmp_path / "trace").exists()


def test_a_directory_that_lies_or_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    card = masks_card("hf_mask2former")
    folder = hub_folder(tmp_path / "hub", card)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"hidden_dim": 48, "num_queries": 9}))
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        load_model(folder)
    entries = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump(entries | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="not the file of its card"):
        check_model(folder)
    monkeypatch.setattr("geopanoptic.models.sources.MAX_FILE_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than 1000 bytes"):
        check_model(folder)
    monkeypatch.setattr("geopanoptic.models.sources.MAX_CONFIG_BYTES", 10)
    with pytest.raises(CheckpointError, match="more than 10 bytes"):
        check_model(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"detections": "many"}, "use whole numbers of 1 to 65536"),
        ({"box_channels": 10**9}, "use whole numbers of 1 to 65536"),
        ({"anchors_px": [8, 16]}, "2 numbers; there are 5 levels"),
        ({"in_channels": 4}, "names 3 bands, its network takes 4"),
        ({"backbone": "resnet19"}, "no ResNet 'resnet19'"),
        ({"backbone": "alexnet"}, "'alexnet' is no ResNet"),
    ],
)
def test_arguments_that_make_no_detector_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        build(masks_card("mask_rcnn", arguments=SMALL_DETECTOR | arguments))


def test_code_that_a_configuration_brings_is_never_run() -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    config = CONFIGS["hf_mask2former"] | {"auto_map": {"AutoModel": "evil.Model"}}
    with pytest.raises(CheckpointError, match="never run"):
        build(masks_card("hf_mask2former", arguments={"config": config}))


def test_cards_that_do_not_fit_their_network_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    config = CONFIGS["hf_eomt"] | {"num_labels": 3}
    with pytest.raises(CheckpointError, match="7 classes, its network 3"):
        build(masks_card("hf_eomt", arguments={"config": config}))
    with pytest.raises(CheckpointError, match="did you mean 'backbone'"):
        build(masks_card("panoptic_fpn", arguments={"backbon": "resnet18"}))
    card = masks_card("panoptic_fpn", decoder="seeded")
    net = build(card)
    with pytest.raises(CheckpointError, match="must say paste or queries"):
        MaskSegmenter(card, net, torch.device("cpu"))
    path = saved(tmp_path / "m.safetensors", masks_card("panoptic_fpn"))
    other = masks_card("panoptic_fpn", arguments={"backbone": "resnet34"})
    state = build(masks_card("panoptic_fpn")).state_dict()
    tensors = {k: v.contiguous().numpy() for k, v in state.items()}
    save_model(path, tensors, other)
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        load_model(path)


def test_windows_larger_than_a_network_takes_are_refused_with_the_cure(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    model = saved(tmp_path / "m.safetensors", masks_card("hf_eomt"))
    chips = np.zeros((1, 3, 64, 96), np.uint8)
    with pytest.raises(Exception, match="--tile 48 --halo 8"):
        load_model(model).forward(chips)


def town(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels (3, 96, 96), classes and instances: bright houses and dark cars on grass."""
    dice = np.random.default_rng(seed)
    semantic, instance = np.full((96, 96), 4, np.uint8), np.zeros((96, 96), np.int32)
    semantic[:, 40:52] = 5
    n = 0
    for class_id, size, cols in ((1, 22, (4, 60)), (2, 12, (42,))):
        for col in cols:
            for row in (6, 50):
                n += 1
                where = np.s_[row : row + size, col : col + (size if class_id == 1 else 8)]
                semantic[where], instance[where] = class_id, n
    colour = np.zeros((8, 3), np.float32)
    colour[[1, 2, 4, 5]] = [[220, 90, 80], [30, 30, 160], [60, 160, 60], [140, 140, 140]]
    pixels = colour[semantic].transpose(2, 0, 1) + dice.normal(0, 6, (3, 96, 96))
    return pixels.clip(0, 255).astype(np.float32), semantic, instance


def labels_of(card: ModelCard, semantic: np.ndarray, instance: np.ndarray) -> list[torch.Tensor]:
    """Return sets (n, 1, h, w) and ids of complete labels, as chips have them."""
    table = np.zeros(256, np.uint8)
    for k, class_id in enumerate(card.schema.ids):
        table[class_id] = 1 << k
    return [torch.from_numpy(table[semantic][:, None]), torch.from_numpy(instance)]


def learnt(
    card: ModelCard, steps: int, rate: float, settle: bool = False
) -> tuple[list[float], MaskSegmenter]:
    """Train a network on two chips; `settle`: over its second half the rate falls to nothing."""
    torch.manual_seed(0)
    net = build(card)
    chips, semantic, instance = (np.stack(a) for a in zip(town(0), town(1), strict=True))
    x = (torch.from_numpy(chips) - 127.5) / 127.5
    labels = labels_of(card, semantic, instance)
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    net.train()
    losses = []
    for step in range(steps):
        if settle:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss = torch.stack(list(net(x, *labels).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, MaskSegmenter(card, net, torch.device("cpu"))


@pytest.mark.timeout(1200)  # twenty seconds of work, but machines are shared
def test_panoptic_fpn_learns_two_chips_by_heart() -> None:
    arguments = SMALL_DETECTOR | {"semantic_channels": 32, "anchors_px": [8, 16, 32, 64, 128]}
    card = masks_card("panoptic_fpn", thresholds={"score": 0.5}, arguments=arguments)
    _, model = learnt(card, 70, 2e-3, settle=True)
    rows = []
    for seed in (0, 1):
        pixels, semantic, instance = town(seed)
        (tile,) = model.segment(pixels[None], np.ones((1, 96, 96), bool))
        classes = np.where(tile.instance > 0, tile.class_of[tile.instance], tile.stuff)
        ids = np.where(tile.instance > 0, tile.instance + 100 * seed, 0).astype(np.int32)
        rows.append((semantic, np.where(instance > 0, instance + 100 * seed, 0), classes, ids))
    truth, truth_ids, found, ids = (np.concatenate(a) for a in zip(*rows, strict=True))
    code = ClassCode.of({i: i for i in range(1, 8)}, with_id=[1, 2], void=[0, 255])
    count = PanopticCount.of((truth, truth_ids), (found, ids), Sides(code, code, 7))
    assert quality_of(count, 7, [1, 2]).all.pq >= 0.8


def test_mask2former_learns_by_its_own_loss() -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    losses, _ = learnt(masks_card("hf_mask2former"), 6, 2e-3)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
