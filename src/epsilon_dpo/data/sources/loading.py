"""Dataset families by name: `fetch.source` in params.yaml decides which function reads."""

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.hh import read_hh
from epsilon_dpo.data.sources.params import HHSource, SyntheticSource


def read_source(source: SyntheticSource | HHSource, seed: int) -> Dataset:
    """The pairs that `source` describes; see `read_synthetic` and `read_hh` for what they raise."""
    if isinstance(source, SyntheticSource):
        return read_synthetic(source, seed)
    return read_hh(source, seed)
