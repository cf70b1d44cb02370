"""`source: mixture`: several sources as one dataset, each with its share of the pairs."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from epsilon_dpo.data.sources.dataset import Dataset, sample
from epsilon_dpo.data.sources.params import MixtureSource, Single
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

Read = Callable[[Single, int, Path], Dataset]


@dataclass(frozen=True)
class _Part:
    """`taken` rows of a member, drawn with `seed`, as rows of the mixture: with the member's name."""

    name: str
    rows: Collection[Row]
    taken: int
    seed: str

    def __iter__(self) -> Iterator[Row]:
        for row in sample(self.rows, len(self.rows), self.taken, self.seed):
            yield {**row, "id": f"{self.name}/{row['id']}", "source": self.name}


@dataclass(frozen=True)
class _Mixed(Collection[Row]):
    """The parts one after the other; trainings shuffle."""

    parts: list[_Part]

    def __len__(self) -> int:
        return sum(part.taken for part in self.parts)

    def __iter__(self) -> Iterator[Row]:
        for part in self.parts:
            yield from part

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


def read_mixture(source: MixtureSource, seed: int, scratch: Path, read: Read) -> Dataset:
    """As many pairs as the members' shares allow, drawn with the seed from each; evaluation pairs in the same shares.

    Args:
        read: what reads one member, with a scratch folder of its own.

    Raises:
        UserError: a member cannot be read (its name comes first), or has too few pairs for its share.
    """
    members: dict[str, Dataset] = {}
    for name, member in source.members.items():
        try:
            members[name] = read(member.fetch, seed, scratch / name)
        except UserError as error:
            raise UserError(f"member {name} of the mixture: {error}") from None
    splits = {split: _mixed(source, members, split, seed) for split in ("train", "eval")}
    taken = {split: {part.name: part.taken for part in mixed.parts} for split, mixed in splits.items()}
    facts = {
        "source": "mixture",
        "members": {
            name: {**dataset.facts, "rows": {split: taken[split][name] for split in taken}}
            for name, dataset in members.items()
        },
        "files": {f"{name}/{file}": sha for name, one in members.items() for file, sha in one.facts["files"].items()},
        "true_reward": False,  # even if a member's is known: not of all rows
    }
    lost = [_Part(name, one.dropped, len(one.dropped), "") for name, one in members.items() if one.dropped is not None]
    if lost:
        reasons = sum((Counter(members[part.name].facts["dropped"]) for part in lost), Counter[str]())
        facts["dropped"] = dict(sorted(reasons.items()))
    return Dataset(splits["train"], splits["eval"], facts, _Mixed(lost) if lost else None)


def _mixed(source: MixtureSource, members: dict[str, Dataset], split: str, seed: int) -> _Mixed:
    """The split of the mixture: the member that is smallest for its share decides how many pairs there are."""
    rows: dict[str, Collection[Row]] = {name: getattr(dataset, split) for name, dataset in members.items()}
    total = min(len(rows[name]) / member.share for name, member in source.members.items())
    parts = []
    for name, member in source.members.items():
        taken = min(int(total * member.share + 1e-6), len(rows[name]))
        if taken == 0:
            raise UserError(
                f"a share of {member.share:g} of {total:.0f} {split} pairs leaves none for member {name}; raise its "
                "share, or give the smallest member more pairs."
            )
        parts.append(_Part(name, rows[name], taken, f"{seed}/{name}/{split}"))
    return _Mixed(parts)
