"""POISE on TRL: `PoiseTrainer` is GRPOTrainer with the value probe as baseline, on as many processes as accelerate starts.

    from poise_lab.trl import PoiseConfig, PoiseTrainer

    trainer = PoiseTrainer("Qwen/Qwen3-4B", reward, PoiseConfig.preset("release", "runs/qwen"), dataset)
    trainer.train()

    accelerate launch --num_processes 2 -m poise_lab.trl --policy thinker --output_dir runs/thinker   # reasoning-gym tasks

It wraps three methods of GRPOTrainer and copies none: the rewards are kept as they are gathered; the pass
that takes the log-probabilities of the sampled tokens also reads one decoder layer; the advantages that TRL
has worked out are replaced by those of `poise_lab.Poise`, the class that the laptop's Trainer uses. States and
rewards are gathered first, so siblings may lie on different processes; each process then fits the same probe
to the same rows, in a thread, while the policy is updated. `tests/scale/` holds a test for each thing assumed of TRL.

Needs the extra: pip install "poise-lab[scale]". Refused: images, and tools or environments inside a response (their
tokens would count as the policy's). Iterable datasets were not tried.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..baselines.poise import Poise
from ..errors import NotFiniteError, PoiseLabError
from ..evaluation import baseline_metrics
from ..files import read_json, write_json
from ..internals import Internals, on_layer, pool_last, span_entropies
from ..policies import Policy
from ..process import timed
from ..rollouts import leave_one_out_mean, reasoning_ends
from ..runs import differences
from .config import PoiseConfig
from .needed import check_trl

STATE = "poise"  # name of the two files in a checkpoint

check_trl()

from accelerate.utils import gather_object  # noqa: E402
from trl import GRPOTrainer  # noqa: E402


@dataclasses.dataclass
class GatheredRollouts:
    """What `Poise` asks of rollouts, of all processes: rewards (P, M) and the task of each prompt."""

    rewards: torch.Tensor
    tasks: list[str]

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def responses(self) -> int:
        return self.rewards.shape[1]

    def partner_rewards(self) -> torch.Tensor:
        return leave_one_out_mean(self.rewards)


class PoiseTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages are POISE's. Same arguments; `args` is a PoiseConfig.

    poise: the baseline, `poise_lab.Poise`, with its probe and buffer, the same on every process.

    Raises PoiseLabError for a model whose decoder layers are not found, images, tools, environments, several GPUs for
    one process, rewards outside [0, 1], states that are not finite, or processes whose rows differ.
    """

    def __init__(self, model, reward_funcs=None, args: PoiseConfig | None = None, *rest, **named):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = PoiseConfig(f"{Path(name).name or 'model'}-POISE")
        if not isinstance(args, PoiseConfig):
            raise PoiseLabError(
                f"args is a {type(args).__name__}; PoiseTrainer takes a PoiseConfig, which has the same fields and POISE's"
            )
        given = inspect.signature(GRPOTrainer.__init__).bind(self, model, reward_funcs, args, *rest, **named).arguments
        for name in ("tools", "environment_factory"):
            if given.get(name):
                raise PoiseLabError(f"{name}: a probe cannot tell their tokens from the policy's; leave them out")
        try:
            super().__init__(model, reward_funcs, args, *rest, **named)
        except ValueError as e:
            if "DataParallel" not in str(e):
                raise
            raise PoiseLabError(
                f"one process sees {args.n_gpu} GPUs; start one for each with `accelerate launch`, or show it one of "
                "them with CUDA_VISIBLE_DEVICES=0"
            ) from None
        if self._is_vlm:
            raise PoiseLabError("PoiseTrainer reads text models; pass a tokenizer as processing_class")
        if args.disable_dropout:
            _still(self._bare())
        depth = len(self._policy().layers)
        self.poise_layer = min(round(depth * 19 / 36), depth - 1) if args.poise_layer is None else args.poise_layer
        if not 0 <= self.poise_layer < depth:
            raise PoiseLabError(f"poise_layer={self.poise_layer}, but the policy has layers 0 to {depth - 1}")
        if self.beta != 0 and hasattr(self._bare(), "peft_config"):
            raise PoiseLabError(
                "a KL penalty (beta) with an adapter reads the log-probabilities of the policy without it; set beta=0"
            )
        self._poise, self._digest = args.baseline(), 0
        self._learning: Future | None = None  # the probe learns from a batch while the policy is updated on it
        self._thread = ThreadPoolExecutor(1, "probe")
        self._reading = False  # whether the next log-prob pass of the policy is the one to read
        self._read: torch.Tensor | None = None  # (R, 2 D + 3) of this process
        self._rewards: torch.Tensor | None = None  # (R of all processes,)

    @property
    def poise(self) -> Poise:
        """The baseline, as it is after the last batch."""
        if self._learning:
            learning, self._learning = self._learning, None
            learning.result()
        return self._poise

    # --- the three methods that are wrapped --------------------------------------------------------

    def _calculate_rewards(self, *args, **kwargs):
        per_function = super()._calculate_rewards(*args, **kwargs)
        rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(1)
        rewards[per_function.isnan().all(1)] = torch.nan  # no function gave one
        self._rewards = rewards.float().cpu()
        return per_function

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        call = super()._get_per_token_logps_and_entropies
        if not (self._reading and model is self.model):
            return call(model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs)
        self._reading = False
        at, response_ids = input_ids.shape[1] - logits_to_keep, input_ids[:, -logits_to_keep:]
        prompts, lengths = attention_mask[:, :at].sum(1), attention_mask[:, at:].sum(1)
        kept = lengths.tolist()
        ends = reasoning_ends(self._policy(), [ids[:n] for ids, n in zip(response_ids.tolist(), kept, strict=True)])
        ends = torch.tensor([n if end < 0 else end for end, n in zip(ends, kept, strict=True)], device=lengths.device)
        states = []  # of one chunk of rows after another

        def read(hidden: torch.Tensor) -> None:
            start = sum(len(s) for s in states)
            here, pool = slice(start, start + len(hidden)), self.args.poise_pool
            # the layer may lie on another GPU than the tokens (device_map)
            asked, reasoned = prompts[here].to(hidden.device), ends[here].to(hidden.device)
            prompt = pool_last(hidden, torch.full_like(asked, at), asked, pool)
            states.append(torch.cat([prompt, pool_last(hidden, at + reasoned, reasoned, pool)], -1).to(ends.device))

        with on_layer(self._policy().layers, self.poise_layer, read):
            result = call(model, input_ids, attention_mask, logits_to_keep, batch_size, True, **kwargs)
        if len(result) != 3 or result[1] is None or sum(len(s) for s in states) != len(input_ids):
            raise PoiseLabError(
                f"TRL {importlib.metadata.version('trl')} does not take log-probabilities as this version of poise_lab "
                "expects; run the tests in tests/scale to see which assumption broke, or install trl==1.16.0"
            )
        entropy = span_entropies(result[1].float().to(ends.device), lengths, ends)
        self._read = torch.cat([torch.cat(states), entropy], -1)
        return result if compute_entropy else (result[0], None, result[2])

    def _generate_and_score_completions(self, inputs):
        """One step of POISE up to the optimizer's, numbered as in `poise_lab.Trainer.train_step`."""
        # 1, 2. TRL samples responses to new problems, verifies them, and reads the policy over them once: rewards r and phi.
        output = self._sample_and_read(inputs)
        tasks, training = self._tasks(inputs), self.model.training
        responses = self.num_generations if training else self.num_generations_eval
        if responses < 2:
            return output  # an evaluation on single responses
        rollouts, internals = self._gathered(responses, tasks)
        # 3. Predict each response's baseline b from its partner's phi, with the probe of the batches before: A = r - b.
        poise = self._fitted_probe()
        values, advantages = self._advantages(poise, rollouts, internals)
        # 4. What the probe says of responses that it has not learned from is measured before it learns from them.
        self._note_metrics(poise, rollouts, internals, advantages, values)
        # 5. Put (phi, the partner's reward) into the buffer and fit the probe anew, in a thread beside the update.
        if training:
            self._learning = self._thread.submit(self._learn, rollouts, internals)
        # 6. TRL takes the optimizer's steps on the clipped surrogate, with these advantages in place of its own.
        self._replace_advantages(output, advantages.flatten(), len(inputs))
        return output

    # --- what they share ---------------------------------------------------------------------------

    def _sample_and_read(self, inputs):
        if "image" in inputs[0] or "images" in inputs[0]:
            raise PoiseLabError("PoiseTrainer reads text; leave the column of images out of the dataset")
        self._reading, self._read, self._rewards = True, None, None
        try:
            output = super()._generate_and_score_completions(inputs)
            if "tool_mask" in output:
                raise PoiseLabError("env_mask: a probe cannot tell masked tokens from the policy's; leave it out")
            if self._reading:  # where a batch is one optimizer step, TRL needs no such pass; the probe does
                self._pass_of_our_own(output)
        finally:
            self._reading = False
        return output

    def _fitted_probe(self) -> Poise:
        """The baseline as the batches before left it, the same on every process."""
        seconds = {}
        with timed(seconds, "wait"):
            poise = self.poise
        self._note("seconds_wait", seconds["wait"])
        self._check_same_rows()
        return poise

    def _advantages(self, poise: Poise, rollouts: GatheredRollouts, internals: Internals):
        """Values (P, M), or None during the warm-up, and advantages (P, M)."""
        seconds = {}
        with timed(seconds, "probe"):
            values = poise.values(rollouts, internals)
            advantages = poise.advantages(rollouts, internals, values)
        self._note("seconds_probe", seconds["probe"])
        return values, advantages

    def _note_metrics(self, poise: Poise, rollouts: GatheredRollouts, internals: Internals, advantages, values) -> None:
        self._note("fitted", float(values is not None))
        self._note("buffer_rows", float(sum(buffer.rows for buffer in poise.buffers.values())))
        self._note("entropy", internals.entropy[..., 0].mean().item())  # a mean over responses; TRL's is over tokens
        for name, value in baseline_metrics(rollouts, advantages, values).items():
            self._note(name, value)

    def _replace_advantages(self, output, advantages: torch.Tensor, rows: int) -> None:
        """Put this process's part of all advantages into its batch, and all of them into TRL's table of responses."""
        mine = self.accelerator.process_index
        output["advantages"] = advantages[mine * rows : (mine + 1) * rows].to(output["advantages"])
        logged = self._logs["advantages"]
        kept = list(logged)[: -len(advantages)]
        logged.clear()
        logged.extend(kept + advantages.tolist())

    def _bare(self):
        return self.accelerator.unwrap_model(self.model)

    def _policy(self) -> Policy:
        """The model without accelerate's wrapping and without an adapter's."""
        model = self._bare()
        name = getattr(model, "name_or_path", "") or type(model).__name__
        return Policy(model, self._tokenizer, name, tags=self.args.poise_tags)

    def _pass_of_our_own(self, output) -> None:
        size = self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size
        ids, mask = (torch.cat([output[f"prompt_{part}"], output[f"completion_{part}"]], 1) for part in ("ids", "mask"))
        start = time.perf_counter()
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(self.model, ids, mask, output["completion_ids"].shape[1], size)
        self._note("seconds_pass", time.perf_counter() - start)

    def _tasks(self, inputs) -> list[str]:
        """The task of each row of all processes; "all" where one probe serves every task."""
        if not self.args.poise_per_task:
            return ["all"] * (len(inputs) * self.accelerator.num_processes)
        if "task" not in inputs[0]:
            raise PoiseLabError(
                "poise_per_task=True needs a column 'task' in the dataset (remove_unused_columns=False)"
            )
        return gather_object([row["task"] for row in inputs])

    def _gathered(self, responses: int, tasks: list[str]) -> tuple[GatheredRollouts, Internals]:
        """The rows of all processes, siblings side by side."""
        start = time.perf_counter()
        rewards = self._rewards.view(-1, responses)
        features = self.accelerator.gather(self._read).cpu().view(len(rewards), responses, -1)
        if not features.isfinite().all():
            raise NotFiniteError("features contain NaN or infinity: the policy's hidden states have overflowed")
        width = (features.shape[-1] - 3) // 2
        prompt, reasoning, entropy = features.split([width, width, 3], -1)
        unused = features.new_zeros(len(rewards), responses, 0)
        internals = Internals(prompt, reasoning, entropy, unused, unused, self.poise_layer, self.args.poise_pool)
        self._note("seconds_gather", time.perf_counter() - start)
        return GatheredRollouts(rewards, tasks[::responses]), internals

    def _learn(self, rollouts: GatheredRollouts, internals: Internals) -> None:
        self._poise.update(rollouts, internals)
        self._digest = digest(self._poise)

    def _note(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][f"poise/{name}"].append(value)

    def note_sum(self, name: str, value: float) -> None:
        """Log the sum of a number over all processes; each must call it."""
        self._note(name, float(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).sum()))

    def _check_same_rows(self) -> None:
        """Each process has fitted its own probe: to the same rows, or it stops here."""
        mine = torch.tensor([self._digest], device=self.accelerator.device)
        every = self.accelerator.gather(mine)
        if (every != every[0]).any():
            raise PoiseLabError(
                "the processes have fitted their probes to different rows; after a resume, give each of them the same "
                "checkpoint (a folder that all nodes see)"
            )

    # --- checkpoints -------------------------------------------------------------------------------

    def _poise_settings(self) -> dict:
        return {**self.poise.settings(), "layer": self.poise_layer, "pool": self.args.poise_pool}

    def _save_checkpoint(self, model, trial):
        if self.args.should_save:  # before the trainer's own files: a checkpoint that it calls whole has these
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in self.poise.state_dict().items()}, folder / f"{STATE}.safetensors")
            write_json(folder / f"{STATE}.json", self._poise_settings())
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        try:
            settings, state = read_json(folder / f"{STATE}.json"), load_file(folder / f"{STATE}.safetensors")
        except Exception as e:
            raise PoiseLabError(
                f"checkpoint {folder} has no readable state of POISE ({e}); resume from another, on nodes that all see it"
            ) from e
        for path, old, new in differences(settings, self._poise_settings()):
            raise PoiseLabError(
                f"checkpoint {folder} was made with other settings: {path} is {old!r} there and {new!r} here"
            )
        self.poise.load_state_dict(state)
        self._digest = digest(self.poise)


def _still(model) -> None:
    """Switch off what is dropped at random and is no module of its own, which TRL's disable_dropout passes over."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith(("dropout", "layerdrop")) and isinstance(value, float):
                setattr(module, name, 0.0)


def digest(poise: Poise) -> int:
    """A number for the rows that the probes are fitted on, small enough for a tensor."""
    parts = "".join(buffer.digest() for _, buffer in sorted(poise.buffers.items()))
    return int(hashlib.sha256(parts.encode()).hexdigest()[:14], 16)
