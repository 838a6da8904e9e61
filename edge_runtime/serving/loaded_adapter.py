"""A trained adapter in memory, as it was asked for; it may serve several sessions."""

import dataclasses

from edge_runtime.contract.messages import SetUpTraining
from edge_runtime.inference.weight_store import FileStates, WeightStore
from edge_runtime.language_head.frozen_head import FrozenHead

from .generator import LanguageModel
from .onnx_adapter import AdapterSession


def adapter_identity(request: SetUpTraining) -> object:
    """Makes what is equal for equal adapters only: by the digests of their files, and the shape."""
    return request.config, request.adapter_graph, request.head


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedAdapter:
    """Holds the graph and the head of one ``SetUpTraining``, and nothing of what they computed.

    Attributes:
        language: with the head; None where the adapter is no language model's.
    """

    identity: object
    session: AdapterSession
    language: LanguageModel | None
    files: FileStates

    @classmethod
    def load(
        cls, request: SetUpTraining, head: FrozenHead | None, store: WeightStore, threads: int
    ) -> "LoadedAdapter":
        """Loads an adapter whose files are in ``store`` already.

        Raises:
            ValueError: the request has no graph.
            UnresumableError: no ONNX model, or not of an adapter of that shape.
        """
        spec, config = request.adapter_graph, request.config
        if spec is None:
            raise ValueError("an adapter that is trained is no graph")
        session = AdapterSession(store.path(spec).read_bytes(), config, head, threads=threads)
        language = None
        if head is not None:
            language = LanguageModel(config=config, adapter=session)
        paths = [store.path(file) for file in (spec, request.head) if file is not None]
        return cls(
            identity=adapter_identity(request),
            session=session,
            language=language,
            files=FileStates.of(paths),
        )

    def is_unchanged(self) -> bool:
        """Tells whether its files, one of which is mapped, are as they were when it was loaded."""
        return self.files.are_the_same()

    def shrink(self) -> None:
        """Gives back the memory of what was computed."""
        self.session.shrink()
