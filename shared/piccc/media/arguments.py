"""What a model may ask of the media tools: their names, descriptions and arguments, for both frameworks.

Documented: prompt, aspect_ratio, resolution, duration_seconds, and a list filtered by type and status.
Assumed: which ratios, resolutions and statuses there are.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

GENERATE_IMAGE = "generate_image"
GENERATE_VIDEO = "generate_video"
GET_TASK = "get_media_task"
LIST_TASKS = "list_media_tasks"

DESCRIPTIONS = {
    GENERATE_IMAGE: "Make an image from a description. Each call is paid for. "
    "Returns the finished image's address, or a task id to ask for later.",
    GENERATE_VIDEO: "Make a video from a description. Each call is paid for and may take minutes. "
    "Returns the finished video's address, or a task id to ask for later.",
    GET_TASK: "Look at an image or video task, and wait for it for a while if it is still running. "
    "Costs nothing.",
    LIST_TASKS: "List the latest image and video tasks, newest first, to find a task again. Costs nothing.",
}

AspectRatio = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9"]
Status = Literal["queued", "processing", "completed", "failed", "cancelled", "expired"]


class Arguments(BaseModel):
    """Arguments of a tool; an unknown one is refused, so that a model learns that it means nothing."""

    model_config = ConfigDict(extra="forbid")


class ImageArguments(Arguments):
    """What a model may ask of the image tool."""

    prompt: str = Field(min_length=1, description="What the picture shows, in full sentences.")
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Literal["1K", "2K", "4K"] | None = Field(
        default=None, description="Pixels on the longer side: 1K is 1024, 2K is 2048, 4K is 4096."
    )


class VideoArguments(Arguments):
    """What a model may ask of the video tool."""

    prompt: str = Field(min_length=1, description="What the film shows and how it moves, in full sentences.")
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Literal["480p", "720p", "1080p"] | None = Field(
        default=None, description="Pixels on the shorter side."
    )
    duration_seconds: int | None = Field(
        default=None, gt=0, lt=3600, description="The film's length in seconds."
    )


class TaskArguments(Arguments):
    """What a model may ask of the tool that looks at a task."""

    task_id: str = Field(min_length=1, description="The task's id, as another tool gave it.")
    wait_seconds: float | None = Field(
        default=None,
        ge=0,
        le=600,
        description="How long to wait at most if it is still running; 0 only looks.",
    )


class TaskListArguments(Arguments):
    """What a model may ask of the tool that lists tasks."""

    type: Literal["image", "video"] | None = Field(default=None, description="Only tasks of this type.")
    status: Status | None = Field(default=None, description="Only tasks of this status.")
    limit: int = Field(default=10, ge=1, le=50, description="How many tasks at most.")


ARGUMENTS: dict[str, type[Arguments]] = {
    GENERATE_IMAGE: ImageArguments,
    GENERATE_VIDEO: VideoArguments,
    GET_TASK: TaskArguments,
    LIST_TASKS: TaskListArguments,
}


def faults(error: ValidationError) -> str:
    """Return which arguments are wrong, and how."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
