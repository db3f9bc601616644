import pytest
import torch
from torchvision.transforms import v2

from era_vision.augment import InGroups, Normalise, Views, batch_views, policy_transform
from era_vision.config import Config


def pictures(batch: int = 64, size: int = 8) -> torch.Tensor:
    return torch.randint(1, 256, (batch, 3, size, size), dtype=torch.uint8)


class Shift(torch.nn.Module):
    """Adds one random number to all it is given."""

    def forward(self, images):
        return images + torch.randint(1, 1_000_000, ())


@pytest.mark.parametrize(("size", "draws"), [(1, 64), (8, 8), (100, 1)])
def test_images_of_a_group_share_a_draw_and_keep_their_place(size, draws):
    """B / size draws a batch, in groups drawn anew, and out[i] is transform(images[i])."""
    images = 10_000_000 * torch.arange(64).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    in_groups = InGroups(Shift(), size)
    shifts = [(in_groups(images) - images)[:, 0, 0, 0] for _ in range(2)]
    for shift in shifts:
        assert shift.min() > 0
        assert shift.max() < 1_000_000
        assert len(shift.unique()) == draws
    members = [(shift == shift[0]).nonzero().flatten().tolist() for shift in shifts]
    assert all(len(first) == min(size, 64) for first in members)
    assert size != 8 or members[0] != members[1]


def test_crops_shift_each_group_on_its_own():
    """A padded crop of torchvision: the image moved by up to 1/8, zeros moving in, perhaps mirrored."""
    images = pictures(1, 16).expand(64, -1, -1, -1)
    out = batch_views(Config(crop=True, flip=True, group=1), 16, 16)(images)[0]
    padded = torch.nn.functional.pad(images[0], [2] * 4)
    possible = [
        padded[:, top : top + 16, left : left + 16] for top in range(5) for left in range(5)
    ]
    possible = torch.stack([p.flip(-1) if m else p for p in possible for m in (False, True)])
    found = [(possible == image).flatten(1).all(1).nonzero().flatten().tolist() for image in out]
    assert all(len(which) == 1 for which in found)
    assert len({which[0] for which in found}) > 25


def test_crops_keep_the_shape_of_images_that_are_not_square():
    images = torch.randint(1, 256, (8, 3, 16, 32), dtype=torch.uint8)
    assert batch_views(Config(crop=True), 16, 32)(images)[0].shape == images.shape


def test_no_crop_no_flip_and_no_policy_change_nothing():
    images = pictures()
    assert torch.equal(batch_views(Config(), 8, 8)(images), images[None])


def test_normalise_takes_pixels_and_unit_floats_alike():
    images = pictures()
    normalise = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = v2.functional.normalize(images / 255.0, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    torch.testing.assert_close(normalise(images), expected)
    torch.testing.assert_close(normalise(images / 255.0), expected)
    assert not normalise.state_dict()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "augmix"])
def test_policy_spares_the_first_view(policy):
    images = pictures(8)
    out = batch_views(Config(policy=policy, views=3, group=1), 8, 8)(images)
    assert torch.equal(out[0], images)
    assert not torch.equal(out[1], images)
    assert not torch.equal(out[1], out[2])


def test_views_of_a_decoded_image_are_those_of_a_batch():
    image = pictures(1)[0]
    versions = Views(v2.Identity(), policy_transform(Config(policy="randaugment")), 3)(image)
    assert versions.shape == (3, 3, 8, 8)
    assert torch.equal(versions[0], image)


def test_the_magnitude_reaches_randaugment():
    """The least magnitude changes an image less than the greatest."""
    images = pictures(32, 16)
    changes = []
    for magnitude in (1, 30):
        torch.manual_seed(0)
        policy = policy_transform(Config(policy="randaugment", magnitude=magnitude))
        changes.append((InGroups(policy, 1)(images).float() - images).abs().mean())
    assert changes[0] < changes[1]
