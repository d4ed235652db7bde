"""The carriers: frozen dataclasses for everything that travels between the parts.

Shape legend, used as suffixes of tensor names everywhere:
    B  sequences (one act each) of a micro-batch
    T  token positions of the padded sequence (prompt + completion)
    N  loss positions of a micro-batch, flattened in row order
    H  hidden size
    V  vocabulary size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BASE = "base"
"""The adapter of a seat that speaks with the frozen base, adapters off, and never learns."""


class StopReason(StrEnum):
    """Why the engine stopped sampling."""

    STOP = "stop"
    """The model ended its turn; the end-of-turn token is the last completion token."""
    LENGTH = "length"
    """The completion budget ran out: the action is truncated and never trained."""


@dataclass(frozen=True)
class Message:
    """One chat message as the policy saw it."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Task:
    """One problem to be solved by the team."""

    id: str
    """Unique and stable within its task set."""
    question: str
    """What the agents are told."""
    answer: str | None = None
    """Ground truth for the grader. Never shown to agents; to the judge only if it is configured to see it."""
    kind: str = "default"
    """Stratum: tasks of one kind are comparable (for sampling, and for watching the judge's bias)."""
    cluster: str = ""
    """What it shares with other tasks, e.g. the table it is made of: such tasks are no independent observations."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name in the workspace -> path on the host, copied in when the episode starts."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the task set's own grader needs."""


@dataclass(frozen=True)
class ToolRun:
    """One execution of an action's code in the episode's kernel."""

    code: str
    text: str
    """What the agent is told, already cut to head + tail."""
    status: str
    """`ok`, `error`, `timeout`, `killed_*` or `died`, as in `sandbox.ExecutionStatus`."""
    seconds: float
    restarted: bool = False
    """The kernel was lost and started anew."""


@dataclass(frozen=True)
class Action:
    """One sampled completion of one agent, with all that is needed to judge it and to train on it."""

    id: str
    """`<episode id>/<index>`, unique in a run."""
    agent: str
    """Whose adapter sampled it, and learns from it; `BASE`: nobody's."""
    role: str
    """The agent's job in one line, for the judge."""
    turn: int
    """0-based turn of this agent within its current act."""
    messages: tuple[Message, ...]
    """The conversation the agent saw, as text."""
    prompt_ids: tuple[int, ...]
    """Exactly what the policy saw when it acted."""
    completion_ids: tuple[int, ...]
    """Exactly what the engine sampled, end-of-turn token included."""
    logprobs: tuple[float, ...]
    """Engine log-probabilities of `completion_ids` under the sampling temperature, natural log."""
    stop_reason: StopReason
    text: str
    """Decoded completion, special tokens removed; begins with `<think>` where the prompt has opened the reasoning."""
    version: int
    """Adapter version (number of updates) that sampled it."""
    tool: ToolRun | None = None
    files: tuple[str, ...] = ()
    """Workspace files this action created or changed."""
    seat: str = ""
    """Who spoke: its name in the team; by default the agent's. Several seats may share an adapter."""
    plain_ids: tuple[int, ...] | None = None
    """What the policy would have seen without the hint it was given; None = it was given none."""
    probe: Mapping[str, Any] | None = None
    """At the end of an act that has to leave files: file -> what it holds, see `mappa.play.probe`."""

    def __post_init__(self) -> None:
        if not self.seat:
            object.__setattr__(self, "seat", self.agent)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the action is learned under."""
        return self.prompt_ids if self.plain_ids is None else self.plain_ids

    @property
    def truncated(self) -> bool:
        return self.stop_reason is StopReason.LENGTH


@dataclass(frozen=True)
class Grade:
    """The task's own word on an episode; every reported accuracy comes from here."""

    score: float
    """0-1; for exact-answer tasks 1.0 or 0.0."""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Task-specific numbers, e.g. rmse."""


@dataclass(frozen=True)
class Episode:
    """One team attempt at one task."""

    id: str
    task: Task
    seed: int
    actions: tuple[Action, ...]
    """In the order in which they were finished."""
    answer: str | None
    """The team's final answer."""
    grade: Grade | None
    """None when the episode ended in an error."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Seat -> workspace files it created or changed."""
    error: str | None = None
    """Why the episode ended early, e.g. an over-long prompt; its finished actions are still judged and trained."""
    seconds: float = 0.0
    parent: str | None = None
    """The attempt that it branched off from."""
    shared: int = 0
    """So many of its first actions are the parent's, replayed."""

    @property
    def own(self) -> tuple[Action, ...]:
        """Its actions without the replayed ones, which are their parent's to be judged, counted and credited."""
        return self.actions[self.shared :]


@dataclass(frozen=True)
class Verdict:
    """The judge's word on one action."""

    score: float | None
    """0-10; None = no verdict (judge failed, budget spent, unreadable reply). Never a placeholder number."""
    reason: str = ""
    judge: str = ""
    """Judge id: changes whenever its verdicts could."""
    prompt_hash: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """Dollars."""
    seconds: float = 0.0
    cached: bool = False
    """Answered from the ledger: nothing was paid."""


@dataclass(frozen=True)
class Sample:
    """One action on its way into the loss."""

    action: Action
    task_id: str
    kind: str
    reward: float | None
    """score / 10, or the rating of the whole episode; None = unjudged."""

    @property
    def valid(self) -> bool:
        """Whether the action enters the policy gradient and the credit statistics.

        What the base said is nobody's to learn, and what was said under a hint is off-policy without it.
        """
        on_policy = self.action.agent != BASE and self.action.plain_ids is None
        return self.reward is not None and not self.action.truncated and on_policy


@dataclass(frozen=True)
class Batch:
    """A micro-batch, aligned to token positions. A row is an act (one action, or all turns of one), or several.

    Padding is on the right, so causal attention needs no mask: no real token looks at padding.
    """

    speakers: tuple[tuple[str, int], ...]
    """Agent -> its number of rows, in the order of the rows."""
    sizes: tuple[int, ...]
    """Sampled tokens of each action, in the order of the loss positions."""
    input_ids_BT: Tensor
    loss_mask_BT: Tensor
    """1.0 where the token was sampled and its action is valid, else 0.0."""
    advantages_BT: Tensor
    """What the objective weighs each token with: advantages of a policy gradient, weights of a likelihood."""
    engine_logprobs_BT: Tensor
    old_logprobs_BT: Tensor | None
    """Trainer log-probabilities before the first update of the rollout; None when one update is taken (ratio = 1)."""
    ref_logprobs_BT: Tensor | None
    """Base-model log-probabilities, only when the loss has a separate KL term."""
    positions_BT: Tensor | None
    """Of each token in its act; None where every row is one act."""
    ends_BT: Tensor | None
    """Token j of a row is seen from the places j <= i < ends[j] of it; None where every row is one act."""
