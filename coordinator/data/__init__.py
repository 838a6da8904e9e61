"""Reads JSONL data, each task's forms of it."""

from .labelled import (
    DataSet,
    DataTask,
    Targets,
    Texts,
    read_evaluation_data,
    read_texts,
    read_training_data,
)
from .language import (
    Completions,
    Conversations,
    Documents,
    LanguageData,
    LanguageTask,
    Transformations,
    read_language_data,
)
from .lines import FieldNames
from .prompts import Prompts, read_prompts

__all__ = [
    "Completions",
    "Conversations",
    "DataSet",
    "DataTask",
    "Documents",
    "FieldNames",
    "LanguageData",
    "LanguageTask",
    "Prompts",
    "Targets",
    "Texts",
    "Transformations",
    "read_evaluation_data",
    "read_language_data",
    "read_prompts",
    "read_texts",
    "read_training_data",
]
