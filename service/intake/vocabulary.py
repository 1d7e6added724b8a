"""Types that requests and answers share, under the names that they have in the OpenAPI."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from ldm_core import params
from worker import jobs

MAX_NAME_CHARS = 200

Task = TypeAliasType("Task", params.Task)
JobStatus = TypeAliasType("JobStatus", jobs.Status)
Priority = TypeAliasType("Priority", jobs.Priority)
ImageFormat = TypeAliasType("ImageFormat", jobs.Format)
Sampler = TypeAliasType(  # each model takes some of these, and says which others are none
    "Sampler", Annotated[str, Field(max_length=MAX_NAME_CHARS, json_schema_extra={"enum": list(params.SAMPLERS)})]
)
Schedule = TypeAliasType(  # likewise
    "Schedule", Annotated[str, Field(max_length=MAX_NAME_CHARS, json_schema_extra={"enum": list(params.SCHEDULES)})]
)
Metadata = TypeAliasType("Metadata", dict[str, str])
