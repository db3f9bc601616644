import gzip
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from era_vision.augment import BatchAugment, Normalise
from era_vision.config import Config
from era_vision.data import Batches, Data, Images, loader
from era_vision.sources import _on_white, load_data


def test_digits_are_split_once_and_for_all():
    first, second = (load_data(Config(data="digits", seed=seed)) for seed in (0, 1))
    assert isinstance(first.train, Images)
    assert isinstance(first.test, Images)
    assert (len(first.train), len(first.test), len(first.classes)) == (1347, 450, 10)
    assert torch.equal(first.test.images, second.test.images)
    assert first.train.images.amax() == 240
    normalised = Normalise(first.mean, first.std)(first.train.images)
    assert normalised.mean() == pytest.approx(0.0, abs=1e-4)
    assert normalised.std() == pytest.approx(1.0, abs=1e-3)


def write_idx(folder, name, array, dims):
    header = bytes([0, 0, 8, dims]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_from_gzipped_files(tmp_path):
    rng = np.random.default_rng(0)
    written = {}
    for part, length in (("train", 7), ("t10k", 5)):
        images = rng.integers(0, 256, (length, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, length, dtype=np.uint8)
        write_idx(tmp_path, f"{part}-images-idx3-ubyte", images, 3)
        write_idx(tmp_path, f"{part}-labels-idx1-ubyte", labels, 1)
        written[part] = images, labels
    data = load_data(Config(data="fashion-mnist", root=str(tmp_path)))
    for part, name in ((data.train, "train"), (data.test, "t10k")):
        assert isinstance(part, Images)
        assert np.array_equal(part.images[:, 0].numpy(), written[name][0])
        assert np.array_equal(part.labels.numpy(), written[name][1])


def emoji_entry(index, category):
    tones = {
        tone: {"image": f"{index}-{tone}.png", "has_img_google": True}
        for tone in ("1F3FB", "1F3FC")
    }
    return {
        "unified": f"1F{index:03}",
        "image": f"{index}.png",
        "category": category,
        "has_img_google": True,
        "skin_variations": tones,
    }


def test_emoji_keeps_skin_tones_on_one_side(tmp_path):
    folder = tmp_path / "emoji-datasource-google"
    (folder / "img" / "google" / "64").mkdir(parents=True)
    entries = [emoji_entry(i, "Objects" if i % 2 else "Activities") for i in range(20)]
    entries.append({**emoji_entry(99, "Component")})
    (folder / "emoji.json").write_text(json.dumps(entries))
    for entry in entries:
        for image in (entry, *entry["skin_variations"].values()):
            number = int(entry["unified"][2:])
            picture = Image.new("RGBA", (64, 64), (number, 0, 0, 255))
            picture.save(folder / "img" / "google" / "64" / image["image"])
    data = load_data(Config(data="emoji", root=str(tmp_path), image_size=8))
    assert isinstance(data.train, Images)
    assert isinstance(data.test, Images)
    assert data.classes == ("Activities", "Objects")
    assert len(data.train) + len(data.test) == 60
    sides = [set(part.images[:, 0, 0, 0].tolist()) for part in (data.train, data.test)]
    assert not sides[0] & sides[1]
    assert torch.equal(data.train.images[:, 0, 0, 0] % 2, data.train.labels)


def test_transparent_pixels_of_emoji_become_white(tmp_path):
    Image.new("RGBA", (64, 64), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (_on_white(tmp_path / "clear.png", None) == 255).all()


def test_cifar10_through_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
    meta = {"label_names": list("abcdefghij")}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    # the generated files are not the published ones, whose checksums torchvision knows
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    data = load_data(Config(data="cifar10", root=str(tmp_path)))
    assert isinstance(data.train, Images)
    assert data.train.images.shape == (20, 3, 32, 32)
    assert data.classes == tuple("abcdefghij")
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), CIFAR10(str(tmp_path)).data)


def write_folder(root, classes, size=40):
    for part in ("train", "val"):
        for value, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                picture = Image.new("RGB", (size, size), (80 * value, 0, 255))
                picture.save(root / part / name / f"{index}.jpg")


@pytest.mark.parametrize("views", [1, 3])
def test_imagefolder(tmp_path, views):
    write_folder(tmp_path, ["ants", "bees"])
    config = Config(
        data=f"imagefolder:{tmp_path}", image_size=32, crop=True, flip=True, views=views
    )
    data = load_data(config)
    assert data.classes == ("ants", "bees")
    images, labels = next(iter(loader(data.train, Batches(6, 6))))
    assert images.shape == (6, views, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    augmented = BatchAugment(Normalise(data.mean, data.std), views=views)(images)
    assert augmented.shape == (6 * views, 3, 32, 32)
    test_images, _ = next(iter(loader(data.test, Batches(6, 6))))
    assert test_images.shape == (6, 3, 32, 32)
    assert test_images.dtype == torch.uint8


def test_imagefolder_with_other_test_classes(tmp_path):
    write_folder(tmp_path, ["ants", "bees"])
    (tmp_path / "val" / "bees").rename(tmp_path / "val" / "wasps")
    with pytest.raises(ValueError, match=r"2 classes in .* they differ in \['bees', 'wasps'\]"):
        load_data(Config(data=f"imagefolder:{tmp_path}"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("fashion-mnist", "apt-get install dataset-fashion-mnist"),
        ("emoji", r"npm install --prefix .* emoji-datasource-google"),
        ("cifar10", r"torchvision\.datasets\.CIFAR10\(.*download=True\)"),
        ("imagefolder:missing", "DIR/train/CLASS"),
    ],
)
def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr("era_vision.sources._DEBIAN_FASHION_MNIST", tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        load_data(Config(data=data, root=str(tmp_path)))


def test_unknown_data():
    with pytest.raises(
        ValueError, match="data='mnist' must be one of digits, fashion-mnist, emoji"
    ):
        load_data(Config(data="mnist"))


def test_bad_images_are_refused():
    pixels, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
    with pytest.raises(ValueError, match=r"images are torch\.float32 .* not uint8"):
        Images(pixels.float() * torch.nan, labels)
    with pytest.raises(ValueError, match=r"not \(N, 1 or 3, H, W\) with \(N,\)"):
        Images(pixels, labels[:3])
    part = Images(pixels, labels)
    with pytest.raises(ValueError, match="train has labels from 0 to 3, but there are 3 classes"):
        Data(part, part, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, 8)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_same_global_batches(world):
    def batches(rank, world, epoch=0):
        order = Batches(22, 8, shuffle=True, drop_last=True, rank=rank, world=world, seed=3)
        order.epoch = epoch
        return list(order)

    whole = batches(0, 1)
    assert [len(batch) for batch in whole] == [8, 8]
    for step, batch in enumerate(whole):
        shares = [batches(rank, world)[step] for rank in range(world)]
        assert sorted(index for share in shares for index in share) == sorted(batch)
    assert batches(0, 1) == whole
    assert batches(0, 1, epoch=1) != whole


def test_test_batches_hold_every_image_once():
    shares = [list(Batches(21, 5, rank=rank, world=2)) for rank in range(2)]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(21))


@pytest.mark.parametrize(("batch_size", "world"), [(23, 1), (9, 2)])
def test_batch_sizes_that_cannot_be_filled_or_shared(batch_size, world):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be at most 22, .* {world}"):
        Batches(22, batch_size, drop_last=True, world=world)
