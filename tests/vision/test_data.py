import gzip
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from era_vision.augment import Normalise
from era_vision.config import Config
from era_vision.data import Data, Images, evaluation_order, loader, training_order
from era_vision.sources import load_data, read_image


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


def write_idx(path, array):
    dims = (0, 0, 8, array.ndim)
    header = bytes(dims) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_from_the_package_of_debian(tmp_path, monkeypatch):
    """What the package brings is unpacked to where torchvision reads it."""
    monkeypatch.setattr("era_vision.sources._DEBIAN_FASHION_MNIST", tmp_path / "debian")
    rng = np.random.default_rng(0)
    written = {}
    for part, length in (("train", 7), ("t10k", 5)):
        images = rng.integers(0, 256, (length, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, length, dtype=np.uint8)
        write_idx(tmp_path / "debian" / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "debian" / f"{part}-labels-idx1-ubyte.gz", labels)
        written[part] = images, labels
    data = load_data(Config(data="fashion-mnist", root=str(tmp_path / "data")))
    for part, name in ((data.train, "train"), (data.test, "t10k")):
        assert isinstance(part, Images)
        assert np.array_equal(part.images[:, 0].numpy(), written[name][0])
        assert np.array_equal(part.labels.numpy(), written[name][1])
    assert data.classes[5] == "Sandal"


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_cifar_through_torchvision(kind, tmp_path, monkeypatch):
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = "labels" if kind is CIFAR10 else "fine_labels"
    parts = kind.train_list + kind.test_list
    for name, _ in parts:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, labels: [0, 1, 2, 9]}))
    meta = {kind.meta["key"]: list("abcdefghij")}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    # the generated files are not the published ones, whose checksums torchvision knows
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    data = load_data(Config(data=kind.__name__.lower(), root=str(tmp_path)))
    assert isinstance(data.train, Images)
    assert data.train.images.shape == (4 * (len(parts) - 1), 3, 32, 32)
    assert data.classes == tuple("abcdefghij")
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), kind(str(tmp_path)).data)


def test_svhn_through_torchvision(tmp_path, monkeypatch):
    """Channels second, labels 1 to 10 with 10 for the digit 0."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        pixels = rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": [[1], [2], [9], [10]]})
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    data = load_data(Config(data="svhn", root=str(tmp_path)))
    assert isinstance(data.test, Images)
    assert torch.equal(data.test.images[0], torch.from_numpy(pixels[..., 0]).permute(2, 0, 1))
    assert data.test.labels.tolist() == [1, 2, 9, 0]
    assert len(data.classes) == 10


def test_a_limit_takes_the_same_images_of_each_part(tmp_path):
    """limit images, in memory or of a folder; all where there are fewer."""
    some, whole = (load_data(Config(data="fake", image_size=8, limit=n)) for n in (200, 0))
    assert isinstance(some.train, Images)
    assert isinstance(whole.train, Images)
    assert (len(some.train), len(some.test)) == (200, 128)
    again = load_data(Config(data="fake", image_size=8, limit=200, seed=1))
    assert torch.equal(some.train.images, again.train.images)
    assert (
        (some.train.images.flatten(1)[:, None] == whole.train.images.flatten(1))
        .all(-1)
        .any(1)
        .all()
    )
    write_folder(tmp_path, ["ants", "bees"])
    assert len(load_data(Config(data=f"imagefolder:{tmp_path}", limit=4)).train) == 4


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", "uint16"), ("tiff", ">u2"), ("pgm", "uint16"), ("png", "uint8")]
)
def test_grey_images_of_16_bits_keep_their_values(tmp_path, suffix, kind):
    """v / 257 of 16 bits, v of 8: Pillow's own conversion clips at 255, and all is white."""
    scale = 257 if kind != "uint8" else 1
    ramp = (scale * np.arange(256).reshape(16, 16)).astype(kind)
    path = tmp_path / f"ramp.{suffix}"
    if suffix == "pgm":  # older Pillows read such files and write none
        path.write_bytes(b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp).save(path)
    image = np.asarray(read_image(str(path)))
    assert np.array_equal(image, np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_of_unknown_range_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff has 32-bit pixels of unknown range"):
        read_image(str(tmp_path / "deep.tiff"))


@pytest.mark.parametrize(("name", "length"), [("cut.png", 1000), ("cut.tif", 1000), ("cut.pgm", 5)])
def test_a_damaged_image_is_named(tmp_path, name, length):
    """Pillow's errors for one that is cut off name no file, and are of several kinds."""
    path = tmp_path / name
    Image.effect_noise((64, 64), 80.0).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{name} is damaged or no image"):
        read_image(str(path))


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
    images, labels = next(iter(loader(data.train, evaluation_order(6, 6))))
    assert images.shape == (6, views, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    test_images, _ = next(iter(loader(data.test, evaluation_order(6, 6))))
    assert test_images.shape == (6, 3, 32, 32)
    assert test_images.dtype == torch.uint8


def test_workers_are_no_forks_of_this_process(tmp_path):
    """A fork has the locks of threads that it does not have, and the folder's lock."""
    write_folder(tmp_path, ["ants", "bees"])
    data = load_data(Config(data=f"imagefolder:{tmp_path}"))
    context = loader(data.train, evaluation_order(6, 6), workers=1).multiprocessing_context
    assert context.get_start_method() in ("forkserver", "spawn")


def test_workers_of_a_script_on_standard_input_are_refused(tmp_path, monkeypatch):
    """They would import it: python - < script.py, of which Python has no file."""
    write_folder(tmp_path, ["ants", "bees"])
    data = load_data(Config(data=f"imagefolder:{tmp_path}"))
    monkeypatch.setattr("__main__.__spec__", None)
    monkeypatch.setattr("__main__.__file__", "<stdin>", raising=False)
    with pytest.raises(ValueError, match="workers=2 must be 0 in <stdin>, which is no file"):
        loader(data.train, evaluation_order(6, 6), workers=2)
    assert len(list(loader(data.train, evaluation_order(6, 6)))) == 1


def test_imagefolder_with_other_test_classes(tmp_path):
    write_folder(tmp_path, ["ants", "bees"])
    (tmp_path / "val" / "bees").rename(tmp_path / "val" / "wasps")
    with pytest.raises(ValueError, match=r"2 classes in .* they differ in \['bees', 'wasps'\]"):
        load_data(Config(data=f"imagefolder:{tmp_path}"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("fashion-mnist", r"torchvision\.datasets\.FashionMNIST\(.*download=True\)"),
        ("cifar10", r"torchvision\.datasets\.CIFAR10\(.*download=True\)"),
        ("svhn", r"torchvision\.datasets\.SVHN\(.*download=True\), and the same with split='test'"),
        ("imagefolder:missing", "DIR/train/CLASS"),
    ],
)
def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr("era_vision.sources._DEBIAN_FASHION_MNIST", tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        load_data(Config(data=data, root=str(tmp_path)))


@pytest.mark.parametrize(
    ("model", "pretrained", "mean", "std"),
    [
        ("efficientnet_v2_l", "DEFAULT", (0.5,) * 3, (0.5,) * 3),
        ("vgg16", "IMAGENET1K_FEATURES", (0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
        ("timm/test_vit", "DEFAULT", (0.5,) * 3, (0.5,) * 3),
        ("timm/resnet18", "tv_in1k", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_are_normalised_as_pretrained_weights_were(model, pretrained, mean, std):
    """Not by the statistics of the data, nor by ImageNet's where the weights have others."""
    if model.startswith("timm/"):
        pytest.importorskip("timm")
    data = load_data(Config(data="digits", model=model, pretrained=pretrained))
    assert data.mean == mean
    assert data.std == pytest.approx(std, rel=1e-6)
    assert load_data(Config(data="digits")).mean != mean


def test_unknown_data():
    with pytest.raises(
        ValueError, match="data='mnist' must be one of digits, fashion-mnist, cifar10"
    ):
        load_data(Config(data="mnist"))


def test_bad_images_are_refused():
    pixels, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
    with pytest.raises(ValueError, match=r"images are torch\.float32 .* not uint8"):
        Images(pixels.float() * torch.nan, labels)
    with pytest.raises(ValueError, match=r"not \(N, 1 or 3, H, W\) with \(N,\)"):
        Images(pixels, labels[:3])
    for targets in (torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"labels are .* not integers of shape .* multi-label"):
            Images(pixels, targets)
    part = Images(pixels, labels)
    with pytest.raises(ValueError, match="train has labels from 0 to 3, but there are 3 classes"):
        Data(part, part, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, 8)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_same_global_batches(world):
    def batches(rank, world, epoch=0):
        order = training_order(22, 8, seed=3, rank=rank, world=world)
        order.sampler.set_epoch(epoch)
        return list(order)

    whole = batches(0, 1)
    assert [len(batch) for batch in whole] == [8, 8]
    for step, batch in enumerate(whole):
        shares = [batches(rank, world)[step] for rank in range(world)]
        assert sorted(index for share in shares for index in share) == sorted(batch)
    assert batches(0, 1) == whole
    assert batches(0, 1, epoch=1) != whole


def test_test_batches_hold_every_image_once():
    shares = [list(evaluation_order(21, 5, rank=rank, world=2)) for rank in range(2)]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(21))


@pytest.mark.parametrize(("batch_size", "world"), [(23, 1), (9, 2)])
def test_batch_sizes_that_cannot_be_filled_or_shared(batch_size, world):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be at most 22, .* {world}"):
        training_order(22, batch_size, world=world)
