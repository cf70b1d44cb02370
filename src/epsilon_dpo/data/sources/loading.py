"""Dataset families by name: `fetch.source` in params.yaml decides which function reads."""

from pathlib import Path

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.hh import read_hh
from epsilon_dpo.data.sources.mixture import read_mixture
from epsilon_dpo.data.sources.params import DatasetSource, HHSource, ReviewsSource, Source, SyntheticSource
from epsilon_dpo.data.sources.published import read_dataset
from epsilon_dpo.data.sources.reviews import read_reviews
from epsilon_dpo.data.sources.watched import refuse_unwatched_within


def read_source(source: Source, seed: int, scratch: Path) -> Dataset:
    """The pairs that `source` describes; each source's own function says what it raises.

    Args:
        scratch: a folder of the caller's own, made if need be; the rows may lie there, so it must outlive them.
    """
    if isinstance(source, SyntheticSource):
        return read_synthetic(source, seed)
    if isinstance(source, HHSource):
        if source.folder is not None:
            for part in ("", *source.subsets):  # the name of a subset may be a hidden one
                refuse_unwatched_within(Path(source.folder, part))
        return read_hh(source, seed)
    if isinstance(source, DatasetSource):
        return read_dataset(source, seed, scratch)
    if isinstance(source, ReviewsSource):
        return read_reviews(source, seed)
    return read_mixture(source, seed, scratch, read_source)
