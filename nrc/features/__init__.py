"""Features of any `nn.Module`: hooks, which layer reads what, which output is the prediction."""
