"""The server: FedAvg, and the one line that writes down what it sees."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy.strategies import HonestButCurious
from own_app.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(0)
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = HonestButCurious(strategy, model=Net, out=str(context.run_config["out"]))  # the one line
    rounds = int(context.run_config["num-server-rounds"])
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=rounds)
    print(f"trained for {rounds} rounds, {len(result.arrays)} arrays")
