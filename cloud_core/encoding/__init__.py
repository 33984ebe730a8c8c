"""Records into rows of a table. Knows neither Dask nor Prefect: what submits and commits is handed in."""
