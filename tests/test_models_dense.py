"""Dense networks of every decoder, the centre and component decoders, flips at test time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_oracle import spell
from random_model import THRESHOLDS, random_card, write_random_model
from scenes import make_truth
from scipy import ndimage

from geopanoptic import PredictSettings, predict
from geopanoptic.errors import CheckpointError, ConfigError
from geopanoptic.models import load_model
from geopanoptic.models.centers import CentersDecoder, ComponentsDecoder
from geopanoptic.models.decode import decoder_of
from geopanoptic.models.dense import (
    CENTER_HEADS,
    SEEDED_HEADS,
    DenseArgs,
    build_dense,
    output_weights,
)
from geopanoptic.models.flips import FlippedSegmenter, Tta
from geopanoptic.models.losses import (
    CenterReach,
    allowed,
    center_loss,
    center_targets,
    superset_loss,
    thing_dice_loss,
)
from geopanoptic.models.segmenter import Segmented
from geopanoptic.panoptic_map import check_map
from geopanoptic.schema import LabelSchema

SCHEMA = LabelSchema.default()
CENTER_THRESHOLDS = {
    f"{name}_{key}": value
    for name in ("building", "vehicle")
    for key, value in {
        "region": 0.5, "score": 0.3, "area_px": 4, "peak": 0.3, "reach_px": 12,
    }.items()
}  # fmt: skip
TTA: tuple[Tta, ...] = ("none", "flips")
NETS = [
    ("light", "tu-tf_efficientnet_lite0"), ("fcn", "resnet18"), ("unet", "resnet18"),
    ("unetplusplus", "resnet18"), ("manet", "resnet18"), ("linknet", "resnet18"),
    ("fpn", "tu-tf_efficientnet_lite0"), ("pspnet", "resnet18"), ("deeplabv3", "resnet18"),
    ("deeplabv3plus", "resnet18"), ("pan", "resnet18"), ("segformer", "mit_b0"),
    ("upernet", "tu-convnext_atto"),
]  # fmt: skip
TRANSFORMERS = [
    ("upernet", "tu-swin_tiny_patch4_window7_224"), ("dpt", "tu-vit_tiny_patch16_224"),
]  # fmt: skip


@pytest.mark.parametrize(("decoder", "encoder"), NETS)
def test_every_decoder_answers_with_a_field_per_class_and_head(decoder: str, encoder: str) -> None:
    args = DenseArgs(encoder=encoder, decoder=decoder, in_channels=4)
    net = build_dense(args, 5).eval()
    with torch.inference_mode():
        assert net(torch.zeros(1, 4, 128, 160)).shape == (1, 8, 128, 160)
    assert hasattr(net, "encoder")
    names = output_weights(net, 8)
    assert len(names) == 2
    assert DenseArgs.from_json(args.to_json()).decoder == decoder


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "encoder"), TRANSFORMERS)
def test_transformers_take_chips_of_any_size(decoder: str, encoder: str) -> None:
    net = build_dense(DenseArgs(encoder=encoder, decoder=decoder), 5).eval()
    with torch.inference_mode():
        for shape in ((64, 96), (128, 128)):
            assert net(torch.zeros(1, 3, *shape)).shape == (1, 8, *shape)


def test_unknown_parts_are_named_with_the_nearest() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'upernet'"):
        build_dense(DenseArgs(decoder="uppernet"), 3)
    with pytest.raises(CheckpointError, match="did you mean 'resnet18'"):
        build_dense(DenseArgs(encoder="resnet_18", decoder="unet"), 3)
    with pytest.raises(CheckpointError, match="cannot be built"):
        build_dense(DenseArgs(encoder="mit_b0", decoder="unetplusplus"), 3)


def test_a_card_names_its_decoder_and_its_heads(tmp_path: Path) -> None:
    arguments = {"encoder": "resnet18", "decoder": "fpn", "heads": list(CENTER_HEADS)}
    card = random_card(arguments=arguments, decoder="centers", thresholds=CENTER_THRESHOLDS)
    write_random_model(tmp_path / "m.safetensors", card)
    model = load_model(tmp_path / "m.safetensors")
    chips = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 70), np.uint8)
    fields = model.forward(chips)
    assert fields["center"].shape == (2, 64, 70)
    assert fields["offset"].shape == (2, 2, 64, 70)
    assert len(model.segment(chips, np.ones((2, 64, 70), bool))) == 2
    wrong = write(tmp_path / "n.safetensors", random_card(arguments=arguments))
    with pytest.raises(CheckpointError, match="needs the heads contact, distance"):
        load_model(wrong)
    with pytest.raises(CheckpointError, match="wants the decoder 'magic'"):
        decoder_of(random_card(decoder="magic"))


@pytest.mark.parametrize(("decoder", "encoder", "instances"), [
    ("fcn", "resnet18", "components"), ("unet", "resnet18", "seeded"),
    ("fpn", "tu-tf_efficientnet_lite0", "seeded"), ("deeplabv3plus", "resnet18", "centers"),
    ("segformer", "mit_b0", "components"), ("upernet", "tu-convnext_atto", "components"),
    pytest.param("upernet", "tu-swin_tiny_patch4_window7_224", "seeded", marks=pytest.mark.slow),
    pytest.param("dpt", "tu-vit_tiny_patch16_224", "seeded", marks=pytest.mark.slow),
])  # fmt: skip
def test_every_kind_of_dense_network_predicts_a_scene_end_to_end(
    decoder: str, encoder: str, instances: str, tmp_path: Path
) -> None:
    heads = {"seeded": SEEDED_HEADS, "centers": CENTER_HEADS, "components": ()}[instances]
    keys = {"seeded": ("region", "ratio", "peak", "score", "area_px"),
            "centers": ("region", "score", "area_px", "peak", "reach_px"),
            "components": ("region", "score", "area_px")}[instances]  # fmt: skip
    thresholds = {k: v for k, v in (THRESHOLDS | CENTER_THRESHOLDS).items()
                  if k.split("_", 1)[1] in keys}  # fmt: skip
    card = random_card(
        arguments={"encoder": encoder, "decoder": decoder, "heads": list(heads)},
        decoder=instances, thresholds=thresholds, core=64, halo=16,
    )  # fmt: skip
    scene = spell(make_truth("blobs", (60, 60), seed=1), tmp_path / "scene.tif")
    model = write(tmp_path / "m.safetensors", card)
    out = tmp_path / "m.panoptic"
    made = predict(scene, str(model), out, settings=PredictSettings(engine="torch"))
    assert check_map(out) == []
    assert not made.info.run["failed_tiles"]
    assert (made.semantic.to_numpy() > 0).all()


def write(path: Path, card: object) -> Path:
    write_random_model(path, card)  # type: ignore[arg-type]
    return path


def true_fields(truth: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the fields that a perfect centre network gives for buildings on grass."""
    semantic = np.full((len(SCHEMA), *truth.shape), 0.01, np.float32)
    semantic[0] += 0.9 * (truth > 0)
    semantic[3] += 0.9 * (truth == 0) + 0.03
    heat, offset, _ = center_targets(torch.from_numpy(truth)[None], CenterReach())
    offset = offset[0].numpy() * CenterReach().unit
    return {"semantic": semantic, "center": heat[0].numpy(), "offset": offset}


def row_houses() -> npt.NDArray[np.int32]:
    truth = np.zeros((60, 120), np.int32)
    for i in range(6):
        truth[6:30, 6 + i * 18 : 6 + (i + 1) * 18] = i + 1
    truth[40:52, 10:40] = 7
    return truth


def decoded(fields: dict[str, npt.NDArray[np.float32]]) -> Segmented:
    card = random_card(decoder="centers", thresholds=CENTER_THRESHOLDS)
    decoder = decoder_of(card)
    assert isinstance(decoder, CentersDecoder)
    return decoder.decode(fields, np.ones(fields["center"].shape, bool))


def test_true_centres_and_offsets_give_the_true_instances() -> None:
    truth = row_houses()
    out = decoded(true_fields(truth))
    assert out.instance.max() == 7
    pairs = np.unique(np.stack([truth.ravel(), out.instance.ravel()]), axis=1)
    assert pairs.shape[1] == 8
    assert (out.class_of[1:] == 1).all()


def test_what_no_centre_claims_stays_one_piece() -> None:
    truth = row_houses()
    fields = true_fields(truth)
    fields["center"][:35] = 0
    out = decoded(fields)
    assert out.instance.max() == 2, "the row as one, and the shed"


def test_components_are_the_connected_pieces() -> None:
    truth = row_houses()
    thresholds = {k: v for k, v in THRESHOLDS.items() if "ratio" not in k and "peak" not in k}
    decoder = decoder_of(random_card(decoder="components", thresholds=thresholds))
    assert isinstance(decoder, ComponentsDecoder)
    fields = {"semantic": true_fields(truth)["semantic"]}
    out = decoder.decode(fields, np.ones(truth.shape, bool))
    assert out.instance.max() == 2
    assert ((out.instance > 0) == (truth > 0)).all()


def test_a_model_of_stuff_alone_is_decoded() -> None:
    schema = SCHEMA.subset(["tree", "grass"])
    decoder = decoder_of(random_card(schema=schema, decoder="components", thresholds={}))
    semantic = np.stack([np.full((5, 6), 0.8), np.full((5, 6), 0.2)]).astype(np.float32)
    out = decoder.decode({"semantic": semantic}, np.ones((5, 6), bool))
    assert (out.stuff == 3).all()
    assert out.instance.max() == 0


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_centre_decoding_keeps_the_laws_on_random_fields(seed: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(seed)
    semantic = rng.dirichlet(np.full(len(SCHEMA), 0.2), (rows, cols)).astype(np.float32)
    fields = {
        "semantic": ndimage.uniform_filter(semantic, (3, 3, 1)).transpose(2, 0, 1),
        "center": rng.random((rows, cols), np.float32),
        "offset": rng.normal(0, 4, (2, rows, cols)).astype(np.float32),
    }
    valid = rng.random((rows, cols)) > 0.1
    card = random_card(decoder="centers", thresholds=CENTER_THRESHOLDS)
    out = decoder_of(card).decode(fields, valid)
    assert ((out.stuff == 0) == ~valid).all()
    assert (out.instance[~valid] == 0).all()
    for i in range(1, len(out.class_of)):
        assert ndimage.label(out.instance == i)[1] == 1


def test_centre_targets_point_at_centroids() -> None:
    ids = torch.zeros((2, 40, 50), dtype=torch.int32)
    ids[0, 10:20, 20:30] = 500
    heat, offset, inside = center_targets(ids, CenterReach())
    assert heat[0].argmax() == 14 * 50 + 24
    assert heat[1].max() == 0
    assert offset[0, :, 10, 29].tolist() == pytest.approx([4.5 / 8, -4.5 / 8])
    assert inside.sum() == 100


def test_the_centre_loss_is_least_for_the_truth() -> None:
    truth = torch.from_numpy(row_houses())[None]
    heat, offset, _ = center_targets(truth, CenterReach())
    logit = torch.logit(heat.clamp(1e-4, 1 - 1e-4))
    right = torch.stack([logit[0], offset[0, 0], offset[0, 1]])[None]
    signed = torch.where(truth > 0, 3.0, -9.0)
    nothing = truth == 0
    best = center_loss(right, truth, signed, nothing)
    assert best < 1e-3
    assert center_loss(right + 0.3, truth, signed, nothing) > 20 * best
    unsaid = torch.full_like(signed, -99.0)
    no_ids = torch.zeros_like(truth)
    assert center_loss(right, no_ids, unsaid, torch.zeros_like(nothing)) == 0


def test_sets_of_many_classes_are_masks_of_several_bytes() -> None:
    rng = np.random.default_rng(2)
    probability = torch.from_numpy(rng.random((1, 20, 4, 5), np.float32)).softmax(1)
    wanted = rng.random((1, 20, 4, 5)) > 0.5
    planes = np.packbits(wanted, axis=1, bitorder="little")
    sets = torch.from_numpy(planes)
    assert (allowed(sets, 20).numpy() == wanted).all()
    first = torch.from_numpy(planes[:, :1])
    few = probability[:, :8]
    weight = torch.ones(8)
    assert superset_loss(few, first, weight) == superset_loss(few, first[:, 0], weight)
    assert thing_dice_loss(few, first, 3) == thing_dice_loss(few, first[:, 0], 3)


@pytest.mark.parametrize("heads", [("edge", "contact", "distance"), CENTER_HEADS])
def test_the_answer_to_a_mirrored_chip_is_the_mirrored_answer(
    heads: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = {"encoder": "tu-tf_efficientnet_lite0", "decoder_channels": [32, 16, 16, 8],
                 "heads": list(heads)}  # fmt: skip
    centers = heads == CENTER_HEADS
    card = random_card(
        arguments=arguments,
        decoder="centers" if centers else "seeded",
        thresholds=CENTER_THRESHOLDS if centers else THRESHOLDS,
    )
    write_random_model(tmp_path / "m.safetensors", card)
    model = load_model(tmp_path / "m.safetensors", tta="flips")
    assert isinstance(model, FlippedSegmenter)
    chips = np.random.default_rng(0).integers(0, 255, (1, 3, 64, 96), np.uint8)
    here = model.forward(chips)
    there = model.forward(chips[..., ::-1])
    for name, field in here.items():
        mirrored = there[name][..., ::-1].copy()
        if name == "offset":
            mirrored[:, 1] *= -1
        assert np.allclose(field, mirrored, atol=1e-4), name
    plain = load_model(tmp_path / "m.safetensors").forward(chips)
    assert not np.allclose(plain["semantic"], here["semantic"], atol=1e-4)
    with pytest.raises(CheckpointError, match="use none or flips"):
        load_model(tmp_path / "m.safetensors", tta="flip")


def test_predict_averages_over_flips_when_asked(tmp_path: Path) -> None:
    scene = spell(make_truth("blobs", (70, 80), seed=1), tmp_path / "scene.tif")
    model = str(write(tmp_path / "m.safetensors", random_card()))
    maps = [
        predict(scene, model, tmp_path / f"{tta}.panoptic", settings=PredictSettings(tta=tta))
        for tta in TTA
    ]
    assert maps[1].info.run["settings"]["tta"] == "flips"
    assert (maps[0].semantic.to_numpy() != maps[1].semantic.to_numpy()).any()
    with pytest.raises(ConfigError, match="use 'none' or 'flips'"):
        PredictSettings(tta="flip")  # type: ignore[arg-type]
