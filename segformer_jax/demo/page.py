"""The page in the browser to try models on photos.

Everything the page needs comes from this process, and a Content-Security-Policy forbids the browser
to load anything from elsewhere.
"""

import os
import socket
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from segformer_jax.demo.view import view_of
from segformer_jax.errors import ImageError
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.view import asset

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ImportError as error:
    raise ImportError(
        f"the page needs gradio ({error}): pip install 'segformer-jax[demo]'"
    ) from error

WIDTH = 1280  # largest width of the page, in CSS pixels
POLICY = (  # gradio compiles its templates in the browser, which needs the 'unsafe-…' sources
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'"
)
FRAME_CSS = f"""
.gradio-container {{ width: 100%; max-width: {WIDTH}px !important; margin: 0 auto !important; }}
.html-container {{ padding: 0 !important; }}
"""


def build_page(segmenters: Mapping[str, Segmenter], *, examples: list[Path]) -> gr.Blocks:
    """Builds the page: photo and model on the left, classes on the right.

    Args:
        segmenters: the models to choose from, by name; the first is chosen at the start.
        examples: pictures that the page offers as examples.
    """
    names = list(segmenters)

    def segment(photo: dict[str, Any] | None, model: str) -> dict[str, Any] | None:
        if photo is None:
            return None
        return _answer(segmenters, photo, model)

    with gr.Blocks(title="segformer-jax", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(), apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                photo = gr.Image(
                    label="Photo",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    height=300,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="photo",
                )
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                if examples:
                    gr.Examples([str(file) for file in examples], photo, label="Example")
            with gr.Column(scale=3, min_width=360):
                view = gr.HTML(
                    html_template=asset("view.html"),
                    css_template=asset("view.css"),
                    js_on_load=asset("view.js"),
                    apply_default_css=False,
                    elem_id="view",
                )
        gr.on(
            [photo.change, model.change],
            segment,
            inputs=[photo, model],
            outputs=view,
            preprocess=False,  # gradio would decode the photo differently from `read_image`
            trigger_mode="always_last",
            api_name="segment",
        )
    return page.queue(default_concurrency_limit=1)


def serve(page: gr.Blocks, *, listening: socket.socket) -> None:
    """Serves the page until Ctrl-C or SIGTERM, which uvicorn raises again after closing.

    Raises:
        RuntimeError: this version of gradio can't be told to accept uploaded files only.
    """
    if getattr(page, "has_launched", None) is not False:
        raise RuntimeError(
            "gradio must be a version whose mounted pages can be told to take uploaded files "
            f"alone, got {gr.__version__}: pip install 'segformer-jax[demo]'"
        )
    page.has_launched = True  # otherwise a mounted page accepts files that nobody uploaded
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,  # it would keep photos in the browser
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=_theme(),
        css=FRAME_CSS,
    )
    config = uvicorn.Config(
        _asking_nobody_else(app), log_level="warning", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listening])


def _answer(
    segmenters: Mapping[str, Segmenter], photo: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """Returns the data of the view, or `message`, the reason why there is none.

    Gradio has checked that the photo's path lies in the folder of uploads.
    """
    path = photo.get("path")
    name = photo.get("orig_name") or "photo"
    if model not in segmenters:
        return {"message": f"no model {model!r} here; there is {', '.join(segmenters)}"}
    if not path:
        return {"message": "the photo is no file: upload one"}
    try:
        return view_of(segmenters[model](path), name=Path(name).stem)
    except ImageError as error:
        return {"message": str(error).replace(path, name)}
    except MemoryError:
        return {"message": f"{name} is too large for this machine's memory: try a smaller one"}


def _asking_nobody_else(app: Any) -> Any:
    """Wraps the app: each answer forbids the browser to load anything from elsewhere."""
    header = (b"content-security-policy", POLICY.encode())

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", ()), header]}
            await send(message)

        await app(scope, receive, send_with_policy)

    return guarded


def _theme() -> gr.themes.Base:
    """Returns the theme, whose fonts come with gradio or from the visitor's machine."""
    font = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
    return gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=(font, "system-ui", "sans-serif")
    )


def _header() -> str:
    file = resources.files("segformer_jax.demo").joinpath("header.html")
    return file.read_text(encoding="utf-8")
