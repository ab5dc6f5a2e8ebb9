"""What a person should know before a run is wasted: in the node that runs, and in the log."""

from __future__ import annotations

import logging


def tell(text: str) -> None:
    """One sentence under the node that runs now, and in ComfyUI's log."""
    logging.warning("DreamFactory: %s", text)
    try:
        from comfy_execution.utils import get_executing_context
        from server import PromptServer
    except ImportError:  # the host as a library, without its server
        return
    running, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if running is not None and server is not None:
        server.send_progress_text(text, running.node_id, server.client_id)
