import copy
import math
from collections import OrderedDict, namedtuple

import onnxruntime
import pytest
import torch
import torchvision
from torch import nn

from era_rl.core import categorical_entropy, softmax_era
from era_vision import ERAClassifier, ERAHead, attach_head, export_model

METHODS = ("lambert", "paper", "temperature")
# tracing its 32 unrolled steps takes a while
TRACED = ("lambert", "paper", pytest.param("temperature", marks=pytest.mark.slow))
FEASIBLE = ((2, 0.3), (10, 0.6), (1000, 0.6), (1000, 4.0))


def small_model(num_classes: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )


def extreme_logits(num_classes: int) -> torch.Tensor:
    rows = torch.randn(64, num_classes) * torch.logspace(-3, 4, 64)[:, None]
    return torch.cat([rows, torch.zeros(1, num_classes), 1e4 * torch.eye(num_classes)[:1]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num_classes", "target"), FEASIBLE)
def test_floor_holds_and_order_is_kept(method, num_classes, target):
    head = ERAHead(num_classes, target, method=method)
    logits = extreme_logits(num_classes).requires_grad_()
    out = head(logits)
    assert categorical_entropy(out).min() >= target - 1e-5
    assert (out.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1) >= out.amax(-1)).all()
    out.log_softmax(-1)[:, 0].sum().backward()
    assert out.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num_classes", "target"), FEASIBLE)
def test_reported_floors_are_attained_and_never_beaten(method, num_classes, target):
    head = ERAHead(num_classes, target, method=method)
    probs = head(extreme_logits(num_classes).double()).softmax(-1)
    entropy = -(probs * probs.log()).sum(-1)
    assert entropy.min() == pytest.approx(head.entropy_floor, abs=1e-6)
    assert probs.max() == pytest.approx(head.max_prob, abs=1e-6)
    assert head.cross_entropy_floor == pytest.approx(-math.log(head.max_prob))
    loss = nn.functional.cross_entropy(
        head(1e4 * torch.eye(num_classes)), torch.arange(num_classes)
    )
    assert loss == pytest.approx(head.cross_entropy_floor, abs=1e-5)


@pytest.mark.parametrize(("target", "entropy", "p_max"), [(0.4, 0.665, 0.872), (0.6, 0.970, 0.792)])
def test_floors_of_ten_classes(target, entropy, p_max):
    """The figures of the 50-digit solution at one-hot logits, tau = 4."""
    head = ERAHead(10, target)
    assert head.entropy_floor == pytest.approx(entropy, abs=1e-3)
    assert head.max_prob == pytest.approx(p_max, abs=1e-3)


def test_head_is_the_core_function():
    logits = torch.randn(8, 10)
    for method in METHODS:
        expected = softmax_era(logits, target_entropy=0.6, tau=5.0, method=method)
        assert torch.equal(ERAHead(10, 0.6, tau=5.0, method=method)(logits), expected)


@pytest.mark.parametrize(
    ("classes", "target", "norm"), [(10, 0.6, 0.707), (2, 0.3 * math.log(2), 0.482)]
)
def test_a_classifier_at_its_floor_learns_that_it_is_wrong(classes, target, norm):
    """|dCE/dz| = beta |p - y| with "temperature", a wrong logit 8 ahead; it was 0 for two classes."""
    logits = torch.eye(1, classes, dtype=torch.float64).mul(8.0).requires_grad_()
    head = ERAHead(classes, target, method="temperature")
    torch.nn.functional.cross_entropy(head(logits), torch.tensor([1])).backward()
    assert logits.grad.norm().item() == pytest.approx(norm, abs=1e-3)
    assert logits.grad.argmin() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_computes_in_float32_under_autocast(dtype):
    classifier = attach_head(small_model(), 0.6)
    images = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=dtype):
        raw = classifier(images, raw=True)
        out = classifier(images)
    assert raw.dtype == dtype
    assert out.dtype == torch.float32
    assert torch.equal(out, classifier.head(raw.float()))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_computes_in_float32_under_cuda_autocast(dtype):
    classifier = attach_head(small_model(), 0.6).cuda()
    with torch.autocast("cuda", dtype=dtype):
        raw = classifier(torch.randn(4, 3, 8, 8, device="cuda"), raw=True)
        out = classifier.head(raw)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, classifier.head(raw.float()))


def test_state_dict_is_that_of_the_bare_model():
    bare, other = small_model(), small_model()
    classifier = attach_head(other, 0.6)
    assert not list(classifier.head.parameters())
    assert list(classifier.head.state_dict()) == ["_target_entropy"]
    classifier.model.load_state_dict(bare.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(classifier(images, raw=True), bare(images))
    bare.load_state_dict(classifier.model.state_dict())


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
)
def test_attach_head_finds_the_number_of_classes(name):
    classifier = attach_head(torchvision.models.get_model(name, num_classes=17), 0.6)
    assert classifier.head.num_classes == 17
    classifier.eval()
    images = torch.randn(2, 3, 64, 64)
    era, raw = classifier(images), classifier(images, raw=True)
    # untrained logits differ by less than float32 resolves in a softmax: compare values, not indices
    assert torch.equal(era.gather(-1, raw.argmax(-1, keepdim=True))[:, 0], era.amax(-1))
    assert categorical_entropy(era).min() >= 0.6


class Fixed(nn.Module):
    """A model with a last layer of ten classes and any output at all."""

    def __init__(self, output):
        super().__init__()
        self.fc = nn.Linear(3, 10)
        self.output = output

    def forward(self, images):
        return self.output


Outputs = namedtuple("Outputs", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: Outputs(z, 2 * z),
        lambda z: {"out": z, "aux": 2 * z},
        lambda z: OrderedDict(logits=z, hidden=2 * z),
    ],
    ids=["named tuple", "dict", "mapping"],
)
def test_the_floor_goes_on_the_logits_of_several_outputs(wrap):
    """head(logits) in the place of logits; the other outputs are the model's own."""
    logits = 9.0 * torch.randn(4, 10)
    classifier = attach_head(Fixed(wrap(logits)), 0.6)
    given = classifier(torch.zeros(4, 3))
    floored, other = given if isinstance(given, tuple) else given.values()
    assert type(given) is type(wrap(logits))
    assert torch.equal(floored, classifier.head(logits))
    assert torch.equal(other, 2 * logits)
    bare = classifier(torch.zeros(4, 3), raw=True)
    assert torch.equal((bare if isinstance(bare, tuple) else list(bare.values()))[0], logits)


@pytest.mark.parametrize(
    "output",
    [(torch.zeros(4, 10),), {"features": torch.zeros(4, 10)}, None, torch.zeros(4, 10).long()],
)
def test_outputs_without_logits_are_refused(output):
    """An output that is neither logits nor names them raises ValueError."""
    with pytest.raises(ValueError, match=r"model gives .* not logits, or a named tuple or mapping"):
        attach_head(Fixed(output), 0.6)(torch.zeros(4, 3))


@pytest.mark.parametrize(("name", "size"), [("inception_v3", 299), ("googlenet", 64)])
def test_models_with_auxiliary_logits_take_a_training_step(name, size):
    """Torchvision's two classifiers of several outputs keep their type, shapes and auxiliary logits."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, num_classes=7, init_weights=False)
        classifier, images = attach_head(model, 0.6), torch.randn(2, 3, size, size)
        given, bare = classifier(images), classifier(images, raw=True)
        assert type(given) is type(bare)
        assert [out.shape for out in given] == [out.shape for out in bare]
        nn.functional.cross_entropy(given.logits, torch.arange(2)).backward()


def test_dense_outputs_have_the_floor_in_their_dimension():
    """H(softmax over dim) >= H0 at every pixel, and (B, C, H, W) with W = C is not guessed."""
    logits = 9.0 * torch.randn(2, 10, 4, 10)
    out = ERAHead(10, 0.6, dim=1)(logits)
    moved = ERAHead(10, 0.6)(logits.movedim(1, -1)[:, :2])
    assert torch.equal(out.movedim(1, -1)[:, :2], moved)
    assert categorical_entropy(out.movedim(1, -1)).min() >= 0.6 - 1e-5
    with pytest.raises(ValueError, match=r"shape \(2, 10, 4, 10\) .* say dim=1 .* or dim=-1"):
        ERAHead(10, 0.6)(logits)
    assert torch.equal(ERAHead(10, 0.6, dim=-1)(logits), ERAHead(10, 0.6, dim=3)(logits))
    with pytest.raises(ValueError, match=r"dim=4 is no dimension of logits of shape"):
        ERAHead(10, 0.6, dim=4)(logits)
    with pytest.raises(ValueError, match=r"dim=1\.0 must be an integer"):
        ERAHead(10, 0.6, dim=1.0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", METHODS)
def test_an_infinite_logit_counts_as_the_largest(method):
    """Half precision overflows to inf: the class is then the surest, and gradients are finite."""
    head = ERAHead(10, 0.6, method=method)
    logits = torch.zeros(3, 10, dtype=torch.float16)
    logits[0, 1] = logits[1, 1] = logits[1, 2] = torch.inf
    logits[2, 3] = -torch.inf
    logits.requires_grad_()
    out = head(logits)
    probs = out.softmax(-1).detach()
    assert probs[0, 1].item() == pytest.approx(head.max_prob, abs=1e-5)
    assert probs[1, 1] == probs[1, 2] == probs[1].amax()
    assert categorical_entropy(out).min() >= 0.6 - 1e-5
    out.log_softmax(-1)[:, 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("method", METHODS)
def test_traced_classifiers_equal_eager_ones(method):
    """torch.jit.trace and torch.fx give the floor's logits at other inputs and batches."""
    classifier = attach_head(small_model(), 0.6, method=method).eval()
    images = torch.randn(3, 3, 8, 8)
    traced = torch.jit.trace(classifier, torch.randn(2, 3, 8, 8))
    graph = torch.fx.symbolic_trace(classifier)
    torch.testing.assert_close(traced(images), classifier(images))
    torch.testing.assert_close(graph(images), classifier(images))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(*list(torchvision.models.resnet18().children())[:-1]),
        nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8)),
        pytest.param(None, id="fc is the identity"),
    ],
)
def test_a_backbone_without_classes_is_refused(model):
    """The last layer of a backbone gives features, which are no classes."""
    if model is None:
        model = torchvision.models.mobilenet_v3_small()
        model.classifier = nn.Identity()
    with pytest.raises(ValueError, match="ends in features, without a layer for num_classes"):
        attach_head(model, 0.6)
    attach_head(model, 0.6, num_classes=7)


def test_a_parametrized_last_layer_is_one():
    """A weight norm's own module was taken for a norm of features: refused as a backbone."""
    for norm in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        classifier = attach_head(nn.Sequential(nn.Flatten(), norm(nn.Linear(3, 10))), 0.6)
        assert categorical_entropy(classifier(100.0 * torch.randn(4, 3))).min() >= 0.6 - 1e-5


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"target_entropy=2\.4 must be in .* num_classes=10"):
        attach_head(small_model(), 2.4)
    with pytest.raises(ValueError, match=r"shape \(2, 10\), not \(\.\.\., num_classes=7\)"):
        attach_head(small_model(), 0.6, num_classes=7)(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="model=Identity has no"):
        attach_head(nn.Identity(), 0.6)
    for model in (attach_head(small_model(), 0.6), nn.Sequential(attach_head(small_model(), 0.6))):
        with pytest.raises(ValueError, match="has an ERAHead already"):
            attach_head(model, 0.6)
    with pytest.raises(ValueError, match="method='entmax'"):
        ERAHead(10, 0.6, method="entmax")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", METHODS)
def test_vmap_equals_a_loop(method):
    head = ERAHead(10, 0.6, method=method)
    logits = 5 * torch.randn(3, 4, 10)
    grads = torch.func.vmap(torch.func.grad(lambda z: head(z).log_softmax(-1)[:, 0].sum()))(logits)
    assert torch.allclose(torch.func.vmap(head)(logits), torch.stack([head(z) for z in logits]))
    leaf = logits.clone().requires_grad_()
    head(leaf).log_softmax(-1)[..., 0].sum().backward()
    torch.testing.assert_close(grads, leaf.grad)


@pytest.mark.parametrize("method", TRACED)
def test_compile_equals_eager_in_one_graph(method):
    classifier = attach_head(small_model(), 0.6, method=method)
    compiled = torch.compile(copy.deepcopy(classifier), backend="aot_eager", fullgraph=True)
    images = torch.randn(4, 3, 8, 8)
    targets = torch.arange(4)
    expected = nn.functional.cross_entropy(classifier(images), targets)
    actual = nn.functional.cross_entropy(compiled(images), targets)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(actual, expected)
    for a, b in zip(compiled.parameters(), classifier.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's own loading
@pytest.mark.parametrize("method", TRACED)
def test_torch_export_with_a_dynamic_batch(method, tmp_path):
    classifier = attach_head(small_model(), 0.6, method=method).eval()
    export_model(classifier, tmp_path / "model.pt2", image_size=8)
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(loaded(images), classifier(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_onnx_keeps_the_floor(method, tmp_path):
    classifier = attach_head(small_model(), 0.6, method=method).eval()
    path = tmp_path / "model.onnx"
    export_model(classifier, path, image_size=8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = 100 * torch.randn(7, 3, 8, 8)
    (out,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), classifier(images), atol=1e-4, rtol=1e-4)
    assert categorical_entropy(torch.from_numpy(out)).min() >= 0.6 - 1e-5


def test_deepcopy_and_repr():
    classifier = copy.deepcopy(attach_head(small_model(), 0.6))
    assert isinstance(classifier, ERAClassifier)
    assert "target_entropy=0.6" in repr(classifier)
