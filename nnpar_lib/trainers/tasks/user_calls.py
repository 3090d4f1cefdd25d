"""Somebody's own function, called on ranks with arguments of each rank's own."""

from __future__ import annotations

import pickle
from typing import Any

from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.tasks.user_code import AgreedError, UserCode
from nnpar_lib.trainers.tasks.user_messages import communicator_of


def call_user_function(packed: bytes) -> dict[str, Any]:
    """Call a function, sent by `cloudpickle`, on the first ranks (collective over the world).

    What is sent has `function`, `arguments`, a tuple for each of these ranks, `over`, what the
    function gets as communicator after its arguments, and `seconds`, how long it may take. Return
    the `outcome` on this rank, its result and the arguments as they are afterwards, None on ranks
    that take no part; how many numbers its `messages` had, `num_sent`; and what the function
    raised, `error`.
    """
    call = pickle.loads(packed)
    ranks = world()
    group = ranks.first_ranks(len(call["arguments"]))
    outcome = None
    error = ""
    num_sent = 0
    if group is not None:
        arguments = call["arguments"][group.rank]
        code = UserCode(call["function"], group, call["seconds"])
        try:
            with communicator_of(call["over"], group) as communicator:
                outcome = (code.run(*arguments, communicator), arguments)
                num_sent = getattr(communicator, "num_sent", 0)
        except AgreedError as raised:
            error = str(raised)
    ranks.idle_barrier()
    return {"outcome": outcome, "num_sent": num_sent, "error": error}
