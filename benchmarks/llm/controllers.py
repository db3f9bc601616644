"""Controllers of entropy beside ERA on the toy language: five seeds and an exact test.

    python -m benchmarks.llm.controllers

The arms: GRPO; the same on the fifth of the tokens of highest entropy, and with an adaptive entropy
bonus (both TRL's); Clip-Cov and KL-Cov (Cui et al., arXiv 2505.22617); GRPO-ERA.

With c = (A - mean A) (log pi - mean log pi) of each token of a batch, Clip-Cov leaves out of the
gradient a share of the tokens, drawn from those of 1 < c < 5, and KL-Cov adds |log pi - log pi_old| of
the share of tokens of the largest c to the loss.

The rule, written before the first run. Settings are those of `toy_runs`, but each batch is trained on
twice (num_iterations=2, in every arm): in a first pass pi is pi_old and KL-Cov's term has no gradient.
ERA's threshold is that of `toy_runs`, untuned. The shares of Cui et al., 0.0002 to 0.002, are at most
one of the 512 tokens of a batch here, so shares, and the targets of the bonus, are candidates: of an
arm's, the one is taken that ends nearest to ERA's entropy on a pilot seed, apart from the five. Then
ERA is compared with each of the five other arms in one measure, `distinct_correct`, by the exact
two-sided Mann-Whitney test over five seeds, corrected by Holm's method for five comparisons; arms are
told apart where the corrected p is at most 0.05. Other measures are shown and not tested.
"""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.document import Table, markdown_block
from benchmarks.llm.toy import pretrained_toy
from benchmarks.llm.toy_runs import ADAPTIVE, ERA, is_done, run, table
from benchmarks.metrics import LEVEL, holm, improvement
from benchmarks.results import RESULTS
from era_llm.trl import GRPOERAConfig, GRPOERATrainer
from era_rl.runs.command import Parser
from era_rl.runs.folder import locked, read_json, write_json

PLAIN = {"era_enabled": False}
SHARES = (0.002, 0.02, 0.2)
ARMS: dict[str, list[dict[str, Any]]] = {
    "grpo": [PLAIN],
    "top-quantile": [{**PLAIN, "top_entropy_quantile": 0.2}],
    "adaptive": [{**ADAPTIVE, "entropy_target": target} for target in (0.9, 1.1, 1.3)],
    "clip-cov": [{**PLAIN, "cov": "clip", "cov_share": share} for share in SHARES],
    "kl-cov": [{**PLAIN, "cov": "kl", "cov_share": share} for share in SHARES],
    "era": [ERA],
}
"""Options of each arm; several are candidates, between which the pilot seed chooses."""
TITLES = {
    "grpo": "GRPO",
    "top-quantile": "GRPO on the fifth of the tokens of highest entropy",
    "adaptive": "GRPO + TRL's adaptive bonus",
    "clip-cov": "GRPO + Clip-Cov",
    "kl-cov": "GRPO + KL-Cov",
    "era": "GRPO-ERA, low threshold 1.5",
}
SEEDS, PILOT, STEPS = (0, 1, 2, 3, 4), 100, 260
BOUNDS = (1.0, 5.0)
TESTED = "distinct_correct"


@dataclass
class CovConfig(GRPOERAConfig):
    """The configuration of an arm, with Clip-Cov or KL-Cov if it says so."""

    cov: Literal["clip", "kl"] | None = None
    cov_share: float = 0.0


class CovTrainer(GRPOERATrainer):
    """GRPO with Clip-Cov or KL-Cov, for the settings of this comparison: loss_type="dapo"."""

    config_class = CovConfig
    _inputs: dict[str, Any] | None = None
    _penalty: Tensor | float = 0.0

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._inputs, self._penalty = inputs, 0.0
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._inputs = None
        return loss + self._penalty / inputs["num_items_in_batch"]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        logps, *others = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._inputs is not None and self.args.cov is not None:
            mask = self._inputs["completion_mask"].bool()
            c = covariance(logps, self._inputs["advantages"], mask)
            count = max(1, int(self.args.cov_share * mask.sum()))
            if self.args.cov == "clip":
                logps = torch.where(clipped(c, count), logps.detach(), logps)
            else:
                difference = (logps - self._inputs["old_per_token_logps"]).abs()
                self._penalty = difference[largest(c, count)].sum()
        return logps, *others


def covariance(logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return c = (A - mean A) (log pi - mean log pi) over unmasked tokens, -inf at the others.

    Args:
        logps: log pi, (responses, time).
        advantages: A, (responses,).
        mask: True where a token counts, (responses, time).
    """
    given, logps = advantages.unsqueeze(-1).expand(logps.shape), logps.detach()
    c = (given - given[mask].mean()) * (logps - logps[mask].mean())
    return c.masked_fill(~mask, float("-inf"))


def clipped(c: Tensor, count: int) -> Tensor:
    """Return where Clip-Cov clips: at most `count` random tokens of 1 < c < 5."""
    inside = ((c > BOUNDS[0]) & (c < BOUNDS[1])).flatten().nonzero().squeeze(-1)
    return _at(inside[torch.randperm(len(inside))[:count]], c)


def largest(c: Tensor, count: int) -> Tensor:
    """Return where KL-Cov acts: the `count` tokens of the largest c."""
    return _at(c.flatten().topk(count).indices, c)


def _at(indices: Tensor, like: Tensor) -> Tensor:
    chosen = torch.zeros(like.numel(), dtype=torch.bool)
    chosen[indices] = True
    return chosen.view(like.shape)


def main() -> None:
    """Run what is missing, and write and print the report."""
    parser = Parser(prog="python -m benchmarks.llm.controllers", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "llm" / "controllers")
    output = parser.parse_args().out
    with locked(output):
        text = compare(output)
        (output / "table.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def compare(output: Path) -> str:
    """Run every arm that has no file in the folder yet and return the report."""
    pilot = {
        arm: [record(output, f"pilot-{arm}-{i}", PILOT, o) for i, o in enumerate(options)]
        for arm, options in ARMS.items()
        if len(options) > 1 or arm == "era"
    }
    aim = pilot["era"][0]["final"]["entropy"]
    runs = {}
    for arm, options in ARMS.items():
        missed = [abs(r["final"]["entropy"] - aim) for r in pilot.get(arm, [])] or [0.0]
        taken = options[int(np.argmin(missed))]
        runs[arm] = [record(output, f"{arm}-seed{seed}", seed, taken) for seed in SEEDS]
    return "\n\n".join([table({_title(a, r[0]): r for a, r in runs.items()}), tests(runs)])


def record(output: Path, name: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a run with options beyond `SETTINGS`, run now if it has no file."""
    path, changes = output / f"{name}.json", {"num_iterations": 2, **changes}
    if not is_done(path, seed, STEPS, changes, CovTrainer):
        write_json(path, run(_initial(seed), seed, STEPS, changes, CovTrainer)[0])
    return read_json(path)


_initial = cache(pretrained_toy)


def tests(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table of ERA beside each other arm, by the rule above."""
    scores = {
        arm: np.array([[record["final"][TESTED]] for record in found])
        for arm, found in runs.items()
    }
    ours = scores.pop("era")
    found = [improvement(ours, theirs) for theirs in scores.values()]
    corrected = holm([one.p_value for one in found])
    rows = [
        [TITLES[arm], str(one), f"{p:.3f}", "yes" if p <= LEVEL else "no"]
        for arm, one, p in zip(scores, found, corrected, strict=True)
    ]
    header = [f"{TESTED}: ERA above", "probability (exact p)", "corrected p", "told apart"]
    return markdown_block(Table(header, rows))


def _title(arm: str, found: dict[str, Any]) -> str:
    """Return an arm's title, with what the pilot chose."""
    config = found["config"]
    chosen = {n: config[n] for n in ("cov_share", "entropy_target") if n in config}
    words = [f"{name.replace('_', ' ')} {value}" for name, value in chosen.items()]
    return ", ".join([TITLES[arm], *words])


if __name__ == "__main__":
    main()
