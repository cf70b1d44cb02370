"""The paper's figures and tables: numbers from the outputs of other stages, drawings of these numbers."""
