"""Dataset families by name: `fetch.source` in params.yaml decides which function reads."""

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.hh import read_hh
from epsilon_dpo.data.sources.params import HHSource, Source, SyntheticSource


def read_source(source: Source, seed: int) -> Dataset:
    """The pairs that `source` describes; see `read_synthetic` and `read_hh` for what they raise."""
    if isinstance(source, SyntheticSource):
        return read_synthetic(source, seed)
    assert isinstance(source, HHSource)
    return read_hh(source, seed)
