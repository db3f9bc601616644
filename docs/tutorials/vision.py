"""An entropy floor on an image classifier: one's own module, then the trainer."""

# --8<-- [start:attach]
import torch
from torch import nn

from era_rl.core import categorical_entropy
from era_vision import Config, Trainer, attach_head

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10))
classifier = attach_head(network, target_entropy=0.6)  # any module from images to logits
images = 10 * torch.randn(32, 3, 8, 8)

logits = classifier(images)  # with the floor
raw = classifier(images, raw=True)  # without
assert categorical_entropy(logits).min() >= 0.6 - 1e-5
assert torch.equal(logits.argmax(-1), raw.argmax(-1))  # the same classes
# --8<-- [end:attach]

# --8<-- [start:floor]
# The floor is loose: one-hot inputs, the surest there are, keep more than target_entropy.
head = classifier.head
assert round(head.entropy_floor, 3) == 0.970  # nats
assert round(head.max_prob, 3) == 0.792  # no class is ever surer
assert round(head.cross_entropy_floor, 3) == 0.234  # so no training loss gets below this
# --8<-- [end:floor]

# --8<-- [start:train]
config = Config(
    data="digits", epochs=1, target_entropy=0.6, out="digits", device="cpu", progress=False
)
history = Trainer(config).fit()
assert history[-1]["train_entropy_min"] >= 0.6 - 1e-5
assert history[-1]["top1"] > 0.5  # one epoch; twelve are the default
# --8<-- [end:train]
