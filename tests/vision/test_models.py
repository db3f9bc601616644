import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from era_vision import attach_head, build_model
from era_vision.models import _new_last_layer, freeze_features, resnet8


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
        ("resnet17", {}, r"model 'resnet17' is unknown; close: .*resnet18"),
        ("fasterrcnn_resnet50_fpn", {}, "model 'fasterrcnn_resnet50_fpn' is unknown"),
        (
            "vgg11",
            {"stem": "cifar"},
            "stem='cifar' needs a ResNet of torchvision's, not model='vgg11'",
        ),
        ("resnet8", {"pretrained": "DEFAULT"}, "resnet8 has no pretrained weights"),
        ("resnet17", {"pretrained": "DEFAULT"}, "model 'resnet17' is unknown"),
        (
            "resnet18",
            {"pretrained": "FOO"},
            "pretrained weights of resnet18 'FOO' is unknown; there are: .*IMAGENET1K_V1",
        ),
        ("vgg11", {"norm": "group"}, "norm='group' does not fit model='vgg11'"),
        ("vit_b_16", {"image_size": 8}, "image_size=8 does not fit model='vit_b_16'"),
    ],
)
def test_what_does_not_exist_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_model(name, 10, **options)


def test_vit_is_built_for_the_size_of_the_images():
    """One position a patch of 16 and one for the class."""
    with torch.device("meta"):
        model = build_model("vit_b_16", 5, image_size=32)
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert model.encoder.pos_embedding.shape[1] == (32 // 16) ** 2 + 1


def test_a_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setattr("era_vision.models.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"model='timm/resnet10t' needs the extra timm: pip install"
    ):
        build_model("timm/resnet10t", 5)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext", "test_efficientnet"])
def test_timm_models_by_name(name):
    """Their logits, at the size of the images; a head finds the classes, a backbone has none."""
    timm = pytest.importorskip("timm")
    model = build_model(f"timm/{name}", 5, image_size=64).eval()
    assert attach_head(model, 0.5)(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    freeze_features(model)
    assert sum(p.requires_grad for p in model.parameters()) == 2
    with pytest.raises(ValueError, match="ends in features, without a layer for num_classes"):
        attach_head(timm.create_model(name, num_classes=0), 0.5)
    with pytest.raises(ValueError, match="model of timm 'resnet10x' is unknown; close: resnet10t"):
        build_model("timm/resnet10x", 5)
    with pytest.raises(ValueError, match=r"weights of timm/resnet10t 'c3' is unknown; .* c3_in1k"):
        build_model("timm/resnet10t", 5, pretrained="c3")
