"""SimBa: residual blocks that let a multilayer perceptron be wide and deep (arXiv 2410.09754)."""

from torch import Tensor, nn
from torch.nn import functional as F


def orthogonal(layer: nn.Linear, gain: float = 1.0) -> nn.Linear:
    """Return a linear layer after its weights were made orthogonal, of that gain, and its biases 0."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class SimbaBlock(nn.Module):
    """x + W2 relu(W1 LayerNorm(x) + b1) + b2: a step from x, which itself passes unchanged.

    At first the weights are normal with variance 2 / inputs (He's), so the step is larger than x, and
    the biases are 0.

    Args:
        width: Features of x and of the result.
        expansion: The hidden layer is as many times wider.

    Source: SimBa, arXiv 2410.09754.
    """

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        for layer in (self.up, self.down):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x after the block, shape of x, (..., width)."""
        return x + self.down(F.relu(self.up(self.norm(x))))


class SimbaEncoder(nn.Sequential):
    """Linear -> residual blocks -> LayerNorm: (..., in_features) -> (..., width).

    An output layer follows, :func:`orthogonal` as the first is. Inputs should be standardised
    (:class:`era_rl.networks.RunningNorm`).

    Args:
        in_features: Features of the input.
        width: Features of each block and of the result.
        blocks: Number of blocks.

    Raises:
        ValueError: For a size below 1.
    """

    def __init__(self, in_features: int, width: int, blocks: int) -> None:
        for name, value in {"width": width, "blocks": blocks}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        super().__init__(
            orthogonal(nn.Linear(in_features, width)),
            *(SimbaBlock(width) for _ in range(blocks)),
            nn.LayerNorm(width),
        )
