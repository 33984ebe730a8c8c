"""What is minimised: masked tokens, properties, heat capacities of a Debye model."""
