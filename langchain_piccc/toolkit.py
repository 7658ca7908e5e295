"""All media tools at once, over one client."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import ConfigDict, Field

from langchain_piccc._progress import OnUpdate
from langchain_piccc.media_tools import (
    Mode,
    PicccImageTool,
    PicccTaskListTool,
    PicccTaskTool,
    PicccVideoTool,
)
from piccc.media.errand import Show


class PicccMediaToolkit(BaseToolkit):
    """Make the four media tools: image, video, look at a task, list tasks.

    What takes longer than `wait_s` the model asks for later, because here it has the tool to ask with. To
    have a human agree before anything is paid for, add LangChain's HumanInTheLoopMiddleware to the agent.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccMediaToolkit, media_from
        >>> toolkit = PicccMediaToolkit(image_model="piccc-image", video_model="piccc-video")
        >>> agent = create_agent(ChatPiccc(), toolkit.get_tools())
        >>> result = agent.invoke({"messages": [("user", 'Make a square picture "a red ceramic mug".')]})
        >>> [(task.status, task.prompt) for task in media_from(result["messages"])]
        [('completed', 'a red ceramic mug')]
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.Client` for all tools; without one each makes its own from the environment."""
    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.AsyncClient` for all tools. Default: made from `client`."""
    on_update: OnUpdate | None = Field(default=None, exclude=True, repr=False)
    """Called with a task at each change of its status or progress."""
    image_model: str | None = None
    """The model that makes images. Default: `PICCC_IMAGE_MODEL`."""
    video_model: str | None = None
    """The model that makes videos. Default: `PICCC_VIDEO_MODEL`."""
    mode: Mode = "wait"
    """What the image and the video tool do once a task is submitted: see `PicccImageTool.mode`."""
    wait_s: float | None = Field(default=60.0, ge=0)
    """How many seconds a call waits at most; then the model is told that the task is still running."""
    show: Show = "none"
    """Whether a finished image goes to the model too: `none`, `image`, or a `thumbnail` of 512 pixels."""

    def get_tools(self) -> list[BaseTool]:
        """Return the tools."""
        shared: dict[str, Any] = {
            "client": self.client,
            "async_client": self.async_client,
            "on_update": self.on_update,
            "wait_s": self.wait_s,
            "show": self.show,
        }
        return [
            PicccImageTool(model=self.image_model, mode=self.mode, **shared),
            PicccVideoTool(model=self.video_model, mode=self.mode, **shared),
            PicccTaskTool(**shared),
            PicccTaskListTool(**shared),
        ]
