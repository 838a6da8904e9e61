"""Reads data files, each task's forms of them."""

from .fields import FieldNames, unread_fields
from .held_out import split
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
    form_of_data,
    read_language_data,
)
from .lines import DataFile
from .prompts import Prompts, read_prompts, said_by_user
from .read import Source, read_data

__all__ = [
    "Completions",
    "Conversations",
    "DataFile",
    "DataSet",
    "DataTask",
    "Documents",
    "FieldNames",
    "LanguageData",
    "LanguageTask",
    "Prompts",
    "Source",
    "Targets",
    "Texts",
    "Transformations",
    "form_of_data",
    "read_data",
    "read_evaluation_data",
    "read_language_data",
    "read_prompts",
    "read_texts",
    "read_training_data",
    "said_by_user",
    "split",
    "unread_fields",
]
