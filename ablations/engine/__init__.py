"""From a study to finished runs: request, grid of cells, store, resolution, runner, clusters."""
