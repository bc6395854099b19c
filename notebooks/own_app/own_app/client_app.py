"""The clients: weights in, one local epoch, weights out."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy.strategies import defence_mod
from own_app.task import Net, load_data, train

app = ClientApp()


def defended(message: Message, context: Context, call_next) -> Message:
    """The one line of a defence, with a chain that the run config names; None: draws that nobody can repeat."""
    return defence_mod(str(context.run_config["defence"]), seed=None)(message, context, call_next)


@app.train(mods=[defended])
def train_here(message: Message, context: Context) -> Message:
    net, config = Net(), context.run_config
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    partition = int(context.node_config["partition-id"])
    images, labels = load_data(partition)
    loss = train(
        net,
        images,
        labels,
        epochs=int(config["local-epochs"]),
        lr=float(config["learning-rate"]),
        momentum=float(config["momentum"]),
        batch_size=int(config["batch-size"]),
    )
    # the partition is for the audit's --truth alone: without it the server does not know who is who
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(labels), "partition-id": partition})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)
