"""Use what [stores] adds: saving to an object store, here an unreachable one, so that nothing is saved."""

from __future__ import annotations

import json
import os

from piccc import Client
from piccc.errors import OutputError

os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ALLOW_HTTP": "true"}
os.environ |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-east-1"}
GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
TASK = json.dumps({"task_id": "t", "status": "completed", "type": "image", "images": [GIF]})
message = ""
try:
    Client(api_key="unused").tasks.load(TASK).outputs[0].save("s3://bucket/mug.gif")
except OutputError as error:
    message = str(error)
assert "s3://bucket/mug.gif" in message
