"""Pictures of items, drawn from what the catalogue says of them, and a small encoder that learns to see by itself.

No data set here holds pictures and no pre-trained weights are at hand: this runs the whole path of pictures (files,
Pillow, `AutoImageProcessor`, `AutoModel`, cache, fusion), and says nothing of photographs.
"""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from model.modalities.adapters import info_nce
from model.modalities.encoders import Encoder, load_encoder
from model.modalities.options import Kind

SIDE = 32
STEPS, BATCH, RATE, TEMPERATURE = 120, 64, 1e-3, 0.1


def pictures(items: Sequence[Mapping[str, Any]]) -> tuple[bytes, ...]:
    """A PNG an item: the background is the category's colour, the figure the brand's, its size grows with the price."""
    return tuple(_picture(item) for item in items)


def _picture(item: Mapping[str, Any]) -> bytes:
    image = Image.new("RGB", (SIDE, SIDE), _colour(f"category {item.get('category')}"))
    draw = ImageDraw.Draw(image)
    price = item.get("price") or 0.0
    reach = 5 + min(8, round(2 * math.log1p(price)))
    brand = f"brand {item.get('brand')}"
    corners = 3 + hashlib.sha256(brand.encode()).digest()[4] % 5
    draw.regular_polygon((SIDE // 2, SIDE // 2, reach), corners, fill=_colour(brand), outline=(0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _colour(said: str) -> tuple[int, int, int]:
    red, green, blue = hashlib.sha256(said.encode()).digest()[:3]
    return red, green, blue


def learn_to_see(contents: Sequence[bytes], folder: Path, *, seed: int) -> Encoder:
    """A vision transformer of two layers, trained to tell two disturbed views of one picture from those of others.

    Source: SimCLR (Chen et al., ICML 2020) with shifts, brightness and noise for views. Saved to `folder` and loaded
    from there, as an encoder of a user's would be.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=SIDE,
            patch_size=8,
        )
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        encoder = load_encoder(str(folder), kind=Kind.IMAGE)
        prepared = [
            encoder.prepare(images=[_open(content)], return_tensors="pt")["pixel_values"] for content in contents
        ]
        pixel_NCHW = torch.cat(prepared)
        optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=RATE)
        for _ in range(STEPS):
            chosen = torch.randperm(len(pixel_NCHW))[:BATCH]
            left, right = (_seen(encoder, _disturbed(pixel_NCHW[chosen])) for _ in range(2))
            loss = info_nce(left, right, chosen[:, None].expand(-1, 2), temperature=TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model: Any = encoder.model
    model.save_pretrained(folder)
    return load_encoder(str(folder), kind=Kind.IMAGE)


def _seen(encoder: Encoder, pixel_BCHW: Tensor) -> Tensor:
    return functional.normalize(encoder.model(pixel_values=pixel_BCHW).last_hidden_state.mean(dim=1), dim=-1)


def _disturbed(pixel_BCHW: Tensor) -> Tensor:
    shift = torch.randint(-3, 4, (2,))
    moved = torch.roll(pixel_BCHW, shifts=(int(shift[0]), int(shift[1])), dims=(2, 3))
    bright = 1 + 0.1 * torch.randn(len(moved), 1, 1, 1)
    return moved * bright + 0.1 * torch.randn_like(moved)


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")
