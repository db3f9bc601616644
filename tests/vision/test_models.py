import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from era_vision import attach_head, build_model
from era_vision.models import _new_last_layer, resnet8


@pytest.mark.slow
def test_every_torchvision_classifier_builds_and_takes_a_head():
    names = list_models(torchvision.models)
    assert len(names) > 70
    for name in names:
        # a RegNet computes its widths with tensors, which the meta device has no values for
        if name.startswith("regnet") and name != "regnet_y_400mf":
            continue
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            assert attach_head(build_model(name, 7), 0.5).head.num_classes == 7


@pytest.mark.parametrize("name", ["resnet18", "resnet8"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_models_run(name, norm):
    model = build_model(name, 5, stem="cifar" if name == "resnet18" else "imagenet", norm=norm)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    assert any(isinstance(m, nn.GroupNorm) for m in model.modules()) == (norm == "group")


def test_cifar_stem_keeps_the_resolution():
    model = build_model("resnet18", 5, stem="cifar").eval()
    seen = []
    model.layer1.register_forward_hook(lambda m, i, out: seen.append(out.shape))
    model(torch.randn(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]


def test_dropout_acts_in_training_alone_and_keeps_the_names():
    model = build_model("resnet8", 5, dropout=0.5)
    assert model.state_dict().keys() == resnet8(5).state_dict().keys()
    images = torch.randn(4, 3, 8, 8)
    model.eval()
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "maxvit_t"])
def test_new_last_layer_keeps_every_other_weight(name):
    with torch.device("meta"):
        model, wanted = get_model(name), get_model(name, num_classes=7)
        _new_last_layer(model, 7)
    shapes = {n: p.shape for n, p in model.state_dict().items()}
    assert shapes == {n: p.shape for n, p in wanted.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet17", {}, r"model='resnet17' is neither resnet8 nor .*resnet18"),
        ("fasterrcnn_resnet50_fpn", {}, "neither resnet8 nor"),
        (
            "vgg11",
            {"stem": "cifar"},
            "stem='cifar' needs a ResNet of torchvision's, not model='vgg11'",
        ),
        ("resnet8", {"pretrained": "DEFAULT"}, "resnet8 has no pretrained weights"),
        ("resnet18", {"pretrained": "FOO"}, "pretrained='FOO' is none .* resnet18: IMAGENET1K_V1"),
        ("vgg11", {"norm": "group"}, "norm='group' does not fit model='vgg11'"),
    ],
)
def test_what_does_not_exist_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_model(name, 10, **options)
