"""Steps that are recorded and replayed are the steps that a run takes without, whatever changes
from step to step."""

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.step import build, cuda_graph
from nnpar_lib.trainers.step.build import build_batches, build_replica
from nnpar_lib.trainers.step.cuda_graph import StaticBatch
from nnpar_lib.trainers.step.recording import NUM_REHEARSALS, Recorded
from nnpar_lib.trainers.strategies.serial import Serial
from nnpar_lib.trainers.tasks import batched_trials
from nnpar_lib.trainers.timeline import Timeline
from tests.tape import TapeRecorder

SHORT = {
    "global_batch_size": 1111,
    "num_epochs": 3,
    "num_steps": 24,
    "dtype": "float64",
    "num_threads": 1,
    "evaluate_every": 0,
}  # 11 steps an epoch, the last one short
FEW = {"num_steps": 12, "global_batch_size": 130}  # for models that take their time
MLP = RunConfig(hidden=(16,), **SHORT)
CASES = {
    "sgd": MLP.replace(optimizer="sgd"),
    "momentum": MLP,
    "nesterov": MLP.replace(optimizer="nesterov"),
    "adam": MLP.replace(optimizer="adam", lr=0.01),
    "falling rate": MLP.replace(lr_schedule="linear"),
    "adam, falling rate": MLP.replace(optimizer="adam", lr=0.01, lr_schedule="cosine"),
    "micro-batches": MLP.replace(microbatch_size=300),
    "cnn": MLP.replace(
        **FEW, dtype="float32", model="cnn", channels=(3, 4), hidden=(8,)
    ),  # faster than float64
    "bf16": MLP.replace(dtype="float32", precision="bf16"),
    "statistics": (RunConfig(model="resnet18", width=4, **SHORT).replace(**FEW)),
}


@pytest.fixture
def recorders(monkeypatch):
    """Let whatever is recorded on a GPU be recorded on tapes; return them in the order in which
    they are made."""
    made = []

    def make():
        made.append(TapeRecorder())
        return made[-1]

    monkeypatch.setattr(cuda_graph, "CudaRecorder", make)
    monkeypatch.setattr(build, "in_graphs", lambda config: config.record)
    return made


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_a_recorded_run_ends_where_a_plain_one_ends(name, recorders):
    config = CASES[name]
    plain = train(config, SingleCommunicator())
    assert not recorders
    recorded = train(config.replace(record=True), SingleCommunicator())
    assert [made.num_records for made in recorders] == [
        1,
        1,
        1,
    ]  # a gradient, an update, a batch: none anew
    assert min(made.num_replays for made in recorders) > 10
    if "rate" in name:  # which lies on the device in float32
        assert recorded.final_train_loss == pytest.approx(plain.final_train_loss, rel=1e-6)
    else:
        assert recorded.weights_sha256 == plain.weights_sha256
        assert recorded.final_train_loss == plain.final_train_loss


def test_a_run_that_goes_on_from_a_checkpoint_records_its_update_anew(recorders, tmp_path):
    config = MLP.replace(record=True, checkpoint=str(tmp_path / "run"))
    train(config.replace(num_steps=11), SingleCommunicator())
    resumed = train(config, SingleCommunicator())
    assert resumed.resumed_at == [11]
    assert [made.num_records for made in recorders[3:]] == [
        1,
        2,
        1,
    ]  # momenta lie elsewhere when they are restored
    assert resumed.weights_sha256 == train(MLP, SingleCommunicator()).weights_sha256


def test_work_is_rehearsed_then_recorded_once_and_again_where_a_tensor_has_moved():
    recorder = TapeRecorder()
    tensors = [torch.zeros(3)]
    work = Recorded(recorder, lambda: tensors[0].add_(1), lambda: tensors)
    for turn in range(1, NUM_REHEARSALS + 4):
        work()
        assert tensors[0].tolist() == [turn] * 3
    assert (recorder.num_rehearsals, recorder.num_records, recorder.num_replays) == (
        NUM_REHEARSALS,
        1,
        3,
    )
    tensors[0] = torch.zeros(3)
    for turn in range(1, NUM_REHEARSALS + 2):
        work()
        assert tensors[0].tolist() == [turn] * 3
    assert (recorder.num_rehearsals, recorder.num_records) == (2 * NUM_REHEARSALS, 2)


def test_a_record_that_waits_for_a_number_is_found_out():
    with pytest.raises(AssertionError, match="reads a number back"):
        TapeRecorder().record(lambda: float(torch.ones(2).sum()))


def test_batches_keep_their_place_but_for_the_short_one_at_the_end_of_an_epoch(recorders):
    config = MLP.replace(record=True, global_batch_size=67)
    last = config.num_steps_per_epoch - 1
    batches = build_batches(config, 4, 1)
    plain = build_batches(config.replace(record=False), 4, 1)
    first = batches.batch(0)
    for step in (0, 3, last - 1, last, last + 1):
        batch = batches.batch(step)
        expected = plain.batch(step)
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        assert batch.num_global_examples == expected.num_global_examples
        assert (batch is first) == isinstance(batch, StaticBatch) == (step != last)


def test_the_loss_of_a_step_stays_what_it_was_when_the_next_one_is_replayed(recorders):
    losses = []
    for config in (MLP, MLP.replace(record=True)):
        replica = build_replica(config, Timeline())
        batches = build_batches(config, 1, 0)
        losses.append(
            [replica.compute_gradient(batches.batch(step)) for step in range(NUM_REHEARSALS + 4)]
        )
    assert max(made.num_replays for made in recorders) >= 3
    assert losses[0] == losses[1] and len(set(map(float, losses[1]))) == len(losses[1])


def test_what_a_rank_holds_in_memory_does_not_depend_on_the_record(recorders):
    memory = []
    for config in (MLP, MLP.replace(record=True)):
        strategy = Serial(config, SingleCommunicator(), Timeline())
        for step in range(6):
            strategy.step(strategy.batches.batch(step), step)
        memory.append(strategy.memory_bytes(strategy.batches.batch(6)))
    assert memory[0] == memory[1] and memory[0]["activations"] > 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.slow
def test_recorded_trials_end_where_they_end_without(optimizer, recorders):
    configs = [
        MLP.replace(optimizer=optimizer, lr=lr, seed=seed, lr_schedule="linear")
        for lr, seed in ((0.1, 0), (0.03, 1), (0.2, 2))
    ]
    plain = batched_trials.train_together(configs)
    recorded = batched_trials.train_together([config.replace(record=True) for config in configs])
    assert [made.num_records for made in recorders] == [1, 1]  # a step, a batch
    assert torch.equal(recorded.losses, plain.losses)
    for name, value in plain.weights.items():
        assert torch.equal(recorded.weights[name], value)
