"""What is minimised: masked words, properties, heat capacities of a Debye model."""
