"""Samples of real records: frames of DriveLM with nuScenes' camera images, and captions of LLaVA-Pretrain."""

import json

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.data.dataset import ConversationDataset
from senna.data.images import load_image
from senna.record_file import open_records
from senna.records import write_records
from senna.views import VIEWS, camera_of, image_block
from tests.helpers.published_pixels import clip_processor, load_levels, published, share_of_changed_pixels
from tests.helpers.small_tokenizers import byte_level

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})


def test_real_records_become_samples_with_the_published_pixels_in_the_order_of_the_prompt(data, tmp_path):
    scenes = json.loads((data / "drivelm" / "train_sample.json").read_text()).values()
    frames = [frame["image_paths"] for scene in scenes for frame in scene["key_frames"].values()]
    assert len(frames) >= 9
    records = []
    for paths in frames:  # DriveLM has its own order of cameras
        for channel, path in paths.items():
            assert camera_of(path) == channel.removeprefix("CAM_").lower().replace("_", " ")
        turns = [{"from": "human", "value": image_block() + "Plan?"}, {"from": "gpt", "value": "KEEP, STRAIGHT\n"}]
        listed = [path.removeprefix("../nuscenes/") for path in paths.values()]
        records.append({"images": listed, "conversations": turns})
    write_records(tmp_path / "data.jsonl", records)
    opened = open_records(tmp_path / "data.jsonl")
    images = ConversationDataset(opened, byte_level(), PROCESSOR, data / "drivelm")[0]["images"]
    channels = [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
    assert list(frames[0]) != channels
    for view, channel in zip(images, channels, strict=True):
        path = frames[0][channel].removeprefix("../nuscenes/")
        assert torch.equal(view, load_levels(data / "drivelm" / path, PROCESSOR))

    camera_images = sorted((data / "drivelm").rglob("*.jpg"))[::9]
    assert camera_images
    for path in camera_images:
        for size in (336, 112):
            for aspect_ratio in ("pad", "square"):
                expected = published(Image.open(path), clip_processor(size), aspect_ratio)
                assert torch.equal(load_image(path, clip_processor(size), aspect_ratio), expected), path
        assert share_of_changed_pixels(path) <= 0.002, path

    folder = data / "llava_pretrain_10"
    captions = open_records(folder / "blip_laion_cc_sbu_558k.json")
    samples = ConversationDataset(captions, byte_level(), PROCESSOR, folder / "images", version="plain")
    items = [samples[number] for number in range(len(samples))]
    assert len(items) == 10
    assert [item.get("error") for item in items] == [None] * 10
    assert all(item["images"].shape == (1, 3, 14, 14) for item in items)
