import io

from rich.console import Console

from coordinator.api.describe_data import DataDescription, LengthRange, Piece, RenderedSample
from coordinator.render.data import show_data


def test_what_is_learnt_is_marked_and_escapes_do_not_reach_the_terminal() -> None:
    pieces = (Piece(text="ask\x1b[2J", learnt=False), Piece(text="answer", learnt=True))
    found = DataDescription(
        name="data",
        sha256="",
        task="causal-lm",
        form="text",
        lines=2,
        samples=3,
        labels={"x\x1b": 2},
        unit="tokens",
        lengths=(
            LengthRange(least=1, greatest=3, count=2),
            LengthRange(least=4, greatest=4, count=1),
        ),
        longest=4,
        longest_place="data, line 2",
        limit=3,
        truncated=1,
        duplicates=0,
        notes=("odd",),
        rendered=(RenderedSample(place="data, line 1", pieces=pieces),),
    )
    written = io.StringIO()
    show_data(found, Console(file=written, width=100))
    shown = written.getvalue()
    assert "data: 2 lines, 3 samples for causal-lm (text)" in shown
    assert "1 to 3" in shown
    assert "longest line: data, line 2, 4 tokens" in shown
    assert "longer than 3 tokens, will be cut: 1" in shown
    assert "earlier one" not in shown, "nothing repeats"
    assert "⟦answer⟧" in shown
    assert "\x1b" not in shown
