"""POISE on TRL, for many processes: `from poise_lab.trl import PoiseConfig, PoiseTrainer`. Needs the extra `scale`."""

__all__ = ["PoiseConfig", "PoiseTrainer"]


def __getattr__(name: str):
    """The two classes, when they are asked for: without TRL, `python -m poise_lab.trl` can still say what is missing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import trainer

    return getattr(trainer, name)
