"""The HTTP server of the page. It serves nothing but the page and fetches nothing from other hosts."""

import socket
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI

from senna.demo.guard import Guard
from senna.demo.page import style
from senna.demo.port import is_loopback

MOST_UPLOAD = "40mb"  # per file; a 40 megapixel JPEG of a camera has 10 to 20 MB


def serve(page: gr.Blocks, listener: socket.socket, uploads: str, ready: Callable[[], None]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        uploads: gradio's folder for uploaded files.
        ready: called before the server starts.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        max_file_size=MOST_UPLOAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"openapi_url": None},
        **style(),
    )
    guard = Guard(app, uploads, loopback=is_loopback(listener))
    config = uvicorn.Config(guard, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    ready()
    uvicorn.Server(config).run(sockets=[listener])
