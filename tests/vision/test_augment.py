import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from era_vision.augment import (
    BatchAugment,
    Normalise,
    Views,
    policy_transform,
    random_crop,
    random_erase,
)


def pictures(batch: int = 64, size: int = 8) -> torch.Tensor:
    return torch.randint(1, 256, (batch, 3, size, size), dtype=torch.uint8)


def test_crop_shifts_each_image_on_its_own():
    images = pictures()
    cropped = random_crop(images, padding=2, flip=True)
    shifts = set()
    for image, out in zip(images, cropped, strict=True):
        padded = nn.functional.pad(image, [2] * 4)
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(
                padded[:, top : top + 8, left : left + 8].flip(-1)
                if mirrored
                else padded[:, top : top + 8, left : left + 8],
                out,
            )
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 25
    assert {mirrored for _, _, mirrored in shifts} == {False, True}


def test_no_padding_and_no_flip_changes_nothing():
    images = pictures()
    assert torch.equal(random_crop(images, padding=0, flip=False), images)


def test_crop_keeps_the_channels_last():
    assert random_crop(pictures(), padding=1, flip=True).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_erase_takes_a_box_from_a_share_of_the_images(probability):
    images = torch.ones(2000, 3, 32, 32)
    erased = random_erase(images, probability) == 0.0
    touched = erased.flatten(1).any(1)
    assert touched.float().mean() == pytest.approx(probability, abs=0.05)
    for mask in erased[touched][:100, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        # boxes at the edges are cut, and half a pixel is rounded: only the upper bound is sharp
        assert mask.float().mean() < 0.37


def test_normalise_takes_pixels_and_unit_floats_alike():
    images = pictures()
    normalise = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = v2.functional.normalize(images / 255.0, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    torch.testing.assert_close(normalise(images), expected)
    torch.testing.assert_close(normalise(images / 255.0), expected)
    assert not normalise.state_dict()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "augmix"])
def test_policy_spares_the_first_view(policy):
    normalise = Normalise((0.0,) * 3, (1.0,) * 3)
    images = pictures(8)
    out = BatchAugment(normalise, policy=policy, views=3)(images).unflatten(0, (3, 8))
    plain = normalise(images)
    assert torch.equal(out[0], plain)
    assert not torch.equal(out[1], plain)
    assert not torch.equal(out[1], out[2])


def test_views_of_a_decoded_image_are_batched_like_those_of_resident_ones():
    image = pictures(1)[0]
    versions = Views(v2.Identity(), policy_transform("randaugment"), 3)(image)
    assert versions.shape == (3, 3, 8, 8)
    assert torch.equal(versions[0], image)
    batch = torch.stack([versions, versions])
    out = BatchAugment(Normalise((0.0,) * 3, (1.0,) * 3), views=3)(batch).unflatten(0, (3, 2))
    assert torch.equal(out[1][0], versions[1] / 255.0)
