"""Says in one line what an event of a session means, if it should stay on the screen."""

from collections.abc import Mapping
from typing import Any

from coordinator.protocol.actions import Record

ATTENTION, LOSS = "yellow", "red"


def line_of(record: Record) -> tuple[str, str | None] | None:
    """Puts an event into a line and its style; None if it is for ``events.jsonl`` alone."""
    fields = record.fields
    match record.event:
        case "fill_finished":
            text = (
                f"fill: {fields['computed']} samples computed, {fields['reused']} reused "
                f"from the cache, {fields['seconds']:.1f} s"
            )
            return text, None
        case "epoch_finished":
            loss, seconds = fields["train_loss"], fields["seconds"]
            return f"epoch {fields['epoch']}: loss {loss:.4f}, {seconds:.1f} s", None
        case "settings_trained":
            losses, left, best = fields["losses"], fields["left"], fields["best"]
            held_out = _held_out(losses[best], fields["accuracies"][best])
            text = (
                f"update {fields['step']}: setting {best} is the best of {len(losses)}, held-out "
                f"{held_out}; {len(left)} go on, by loss"
            )
            return text, None
        case "epoch_evaluated":
            epoch, held_out = fields["epoch"], _held_out(fields["loss"], fields.get("accuracy"))
            best = fields["best"]
            rank = "the best so far" if best == epoch else f"epoch {best} was better"
            return f"epoch {epoch}: held-out {held_out}, {rank}", None
        case "stopped_early":
            epoch, best, patience = fields["epoch"], fields["best"], fields["patience"]
            text = (
                f"stopping after epoch {epoch}: on held-out data none was better than epoch "
                f"{best} for {patience} epochs (--patience {patience})"
            )
            return text, ATTENTION
        case "owners_changed":
            shards = ", ".join(f"{name} {count}" for name, count in fields["shards"].items())
            return f"other owners do what is left sooner: {shards}", None
        case "generation_finished":
            tokens, seconds = fields["tokens"], fields["seconds"]
            pace = tokens / max(1e-3, seconds)
            return f"{tokens} tokens in {seconds:.1f} s, {pace:.1f} tokens/s", None
        case "notice":
            return f"{fields['device']}: {fields['text']}", ATTENTION
        case "rebalanced" | "device_off_pace":
            return _off_pace(fields), ATTENTION
        case _:
            return _healing(record.event, fields)


def _held_out(loss: float, accuracy: float | None) -> str:
    """Names what decides first."""
    return f"loss {loss:.4f}" if accuracy is None else f"accuracy {accuracy:.4f}, loss {loss:.4f}"


def _healing(event: str, fields: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """The same, of events by which the devices that take part change."""
    names = " and ".join(fields.get("devices", ()))
    device, reason = fields.get("device"), fields.get("reason")
    match event:
        case "device_lost":
            return f"{device} was lost: {reason}", LOSS
        case "device_quarantined":
            return f"{device} is left out from here on: {reason}", LOSS
        case "device_failed":
            return f"{device} failed and is asked again: {reason}", ATTENTION
        case "device_blamed":
            return f"{device} sent what is wrong: {reason}", ATTENTION
        case "devices_absent":
            return f"going on without {names}: did not join in time", ATTENTION
        case "relayed":
            text = f"{names} cannot reach each other, the coordinator forwards: {reason}"
            return text, ATTENTION
        case "relief":
            asks = f"{device} asks for its work to be taken away: {reason}"
            return asks if reason else f"{device} can work again", ATTENTION
        case "waiting":
            return f"waiting for {names or 'devices'}: {reason}", ATTENTION
        case "went_on":
            again = fields["computed_again"]
            more = f", {again} samples computed again" if again else ""
            return f"going on after {fields['seconds']:.1f} s{more}", None
        case _:
            return None


def _off_pace(fields: Mapping[str, Any]) -> str:
    factor = fields["factor"]
    speed = f"{factor:.1f}x slower" if factor > 1 else f"{1 / factor:.1f}x faster"
    text = f"{fields['device']} is {speed} than expected"
    if "shares" not in fields:
        return text
    shares = ", ".join(f"{device} {share:.0%}" for device, share in fields["shares"].items())
    return f"{text}; stage {fields['stage'] + 1} is shared anew: {shares}"
