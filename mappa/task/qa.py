"""Questions over texts, or with options: HotpotQA, 2WikiMultihopQA, TriviaQA, ARC, MMLU."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mappa.errors import ConfigError, TaskError
from mappa.seed import stable_seed
from mappa.task.answers import extract
from mappa.task.base import WorkspaceReader
from mappa.task.records import RecordTasks, Source, cluster_of, field_of, identity, kind_of, question_of, text_of
from mappa.types import Grade, Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_OPTION = re.compile(r"\(?([A-Z])\)?[.:)]?(?:\s|$)")


class QATask(RecordTasks):
    """Answers are graded by the words they share with the true one, by equality, or by the option's letter."""

    def __init__(
        self,
        name: str,
        train: Source | Mapping[str, Any] | None = None,
        validation: Mapping[str, Source | Mapping[str, Any]] | None = None,
        data_dir: str | None = None,
        drop_overlap: bool = False,
        grading: Literal["f1", "exact", "option"] = "f1",
        context: str | Sequence[str] | None = None,
        gold: str | None = None,
        options: str | None = None,
        seats: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """
        Args:
            grading: `f1` = token F1 over normalised words, as SQuAD's (departure from Optima's code, which counts the
                model's tokens); `exact` = normalised equality with any true answer; `option` = the letter.
            context: field with paragraphs: a list of texts, of [title, sentences], or `{title: [..], sentences: [..]}`.
            gold: field that names the supporting paragraphs (`{title: [..]}` or a list of [title, ..]), which are dealt
                so that no seat has all of them.
            options: field with the options of a multiple-choice question: a list of texts, or `{text: [..]}`.
            seats: between whom the paragraphs are dealt (`metadata["views"]`); empty = they stand in the question.
            seed: of the dealing.
            The others: see `RecordTasks`.
        """
        super().__init__(name, train, validation, data_dir, drop_overlap)
        if (grading == "option") != (options is not None):
            raise ConfigError(f"task.grading={grading}: options are graded by letter, and only they (task.options)")
        self._grading, self._context, self._gold, self._options = grading, context, gold, options
        self._seats, self._seed = tuple(seats), seed

    def task(self, record: Mapping[str, Any], source: Source, name: str, where: str) -> Task:
        question = question_of(record, source, where)
        key = f"{name}/{identity(record, source, question)}"
        answers = self._answers(record, source, where)
        if self._options is not None:
            question = f"{question}\n{_listed(field_of(record, self._options, 'options', where), where)}"
        metadata: dict[str, Any] = {"answers": answers}
        if self._context is not None:
            paragraphs = _paragraphs(field_of(record, self._context, "context", where), where)
            if self._seats:
                gold = _titles(record.get(self._gold)) if self._gold else ()
                metadata["views"] = deal(paragraphs, gold, self._seats, stable_seed(self._seed, key))
            else:
                question = "\n\n".join([*(text for _, text in paragraphs), question])
        kind = kind_of(record, source, name, where)
        return Task(
            id=key,
            question=question,
            answer=answers[0],
            kind=kind,
            cluster=cluster_of(record, source, where),
            metadata=metadata,
        )

    def vote(self, answer: str) -> str | None:
        found = extract(answer)
        if found is None:
            return None
        if self._grading == "option":
            match = _OPTION.match(found.strip())
            return match[1] if match else None
        return normal(found) or None

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """0-1: the best over all true answers."""
        said = self.vote(answer) if answer else None
        if said is None:
            return Grade(0.0, "no final answer was stated")
        truths = task.metadata["answers"]
        if self._grading == "f1":
            score = max(f1(said, normal(truth)) for truth in truths)
        else:
            score = float(any(said == (truth if self._grading == "option" else normal(truth)) for truth in truths))
        return Grade(score, f"answered {said[:80]}, expected {truths[0][:80]}")

    def _answers(self, record: Mapping[str, Any], source: Source, where: str) -> list[str]:
        """All true answers, the main one first; of an option its letter."""
        value = field_of(record, source.answer, "answer", where)
        if isinstance(value, Mapping):  # TriviaQA: {value, aliases}
            found = [value.get("value"), *(value.get("aliases") or [])]
        elif self._options is not None and isinstance(value, int) and not isinstance(value, bool):
            found = [string.ascii_uppercase[value]]  # MMLU counts options from 0
        else:
            found = value if isinstance(value, list) else [value]
        if self._options is not None and str(found[0]).isdigit():  # ARC sometimes counts from 1
            found = [string.ascii_uppercase[int(found[0]) - 1]]
        return list(dict.fromkeys(text_of(answer, where) for answer in found if answer is not None))


def normal(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces (SQuAD's normalisation)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(said: str, truth: str) -> float:
    """Harmonic mean of precision and recall over words."""
    words, wanted = said.split(), truth.split()
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return float(words == wanted)
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def deal(paragraphs: Sequence[tuple[str, str]], gold: Sequence[str], seats: Sequence[str], seed: int) -> dict[str, str]:
    """Paragraphs in turn to the seats, the supporting ones first, so that no seat has all of these."""
    rng = random.Random(seed)
    supporting = [p for p in paragraphs if p[0] in gold]
    others = [p for p in paragraphs if p[0] not in gold]
    rng.shuffle(supporting)
    rng.shuffle(others)
    hands: dict[str, list[str]] = {seat: [] for seat in seats}
    for index, (_, text) in enumerate([*supporting, *others]):
        hands[seats[index % len(seats)]].append(text)
    for hand in hands.values():
        rng.shuffle(hand)
    return {seat: "\n\n".join(hand) for seat, hand in hands.items()}


def _paragraphs(value: Any, where: str) -> list[tuple[str, str]]:
    """(title, text) of each."""
    if isinstance(value, Mapping) and {"title", "sentences"} <= set(value):
        value = list(zip(value["title"], value["sentences"], strict=True))
    if not isinstance(value, list | tuple) or not value:
        raise TaskError(f"{where}: the context holds no list of paragraphs; name another field with task.context")
    found = []
    for index, paragraph in enumerate(value):
        title, body = (str(index), paragraph) if isinstance(paragraph, str) else paragraph
        text = body if isinstance(body, str) else " ".join(str(sentence).strip() for sentence in body)
        found.append((str(title), text if isinstance(paragraph, str) else f"{title}: {text}"))
    return found


def _titles(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(dict.fromkeys(map(str, value.get("title", ()))))
    return tuple(dict.fromkeys(str(fact[0]) for fact in value or ()))


def _listed(value: Any, where: str) -> str:
    texts = value["text"] if isinstance(value, Mapping) and "text" in value else value
    if not isinstance(texts, list | tuple) or not 2 <= len(texts) <= len(string.ascii_uppercase):
        raise TaskError(f"{where}: the options are no list of two or more texts; name another field with task.options")
    return "\n".join(f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, texts, strict=False))
