"""Every message that crosses a socket, as frozen dataclasses.

Three flows, and a tunnel for the third:

- :mod:`.requests`, :mod:`.training` and :mod:`.tuning`, *to a device*: what the coordinator
  asks for (``ProfileRequest``,
  ``LoadStage``, ``RunBatch``, ``TrainEpoch``, ...). Each request is answered by exactly one
  message or by ``Failed``, see :mod:`.flow`.
- :mod:`.answers` and :mod:`.telemetry`, *to the coordinator*.
- :mod:`.mesh`, *device to device*: hidden states between stages (``Activations``), states to
  their owners (``States``), gradients (``GradientPart``, ``ReducedPart``), and
  trains that measure the link (``Probe``, ``ProbeEcho``).

Where two devices cannot reach each other, the coordinator forwards the encrypted bytes of their
connection, see :mod:`.tunnel`.

The sender is never a field: a DeviceId comes from the transport's authentication only.

Shapes: N samples, L layers, R bytes of an encoded row, P adapter parameters, C outputs.
"""

# Star imports, since this package is exactly what those modules define: a list of all
# messages here would repeat them.
from .answers import *  # noqa: F403
from .base import *  # noqa: F403
from .base import Message
from .flow import ANSWER_OF as ANSWER_OF
from .mesh import *  # noqa: F403
from .requests import *  # noqa: F403
from .telemetry import *  # noqa: F403
from .training import *  # noqa: F403
from .tuning import *  # noqa: F403
from .tunnel import *  # noqa: F403

MESSAGE_TYPES: dict[str, type[Message]] = {
    name: item
    for name, item in list(globals().items())
    if isinstance(item, type) and issubclass(item, Message) and item is not Message
}
