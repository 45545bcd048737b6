#!/usr/bin/env python
"""An example of a server: pictures in by POST /predict, the five best classes out as JSON.

    python tools/deployment/serve.py model.onnx [--port 8000]
    curl --data-binary @picture.jpg http://127.0.0.1:8000/predict

Starlette and uvicorn do the serving. A picture that cannot be used is answered with 400 and one line, one above
--max-megabytes with 413; GET /health says that the model is loaded.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from mmvisionllama import deploy, launch
from mmvisionllama.errors import DataError, LaunchError

try:
    import anyio
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'mmvisionllama[serve]'")


def make_app(predictor: deploy.Predictor, max_bytes: int = 20_000_000, at_once: int = 1) -> Starlette:
    """The application; ``at_once`` pictures are computed side by side, the others wait."""
    if getattr(predictor, 'scope', None) not in (None, 'mmpretrain'):
        raise LaunchError(f'this example serves classifiers, and the model is one of {predictor.scope}')
    if at_once < 1 or max_bytes < 1:
        raise LaunchError('--at-once and --max-megabytes have to be above 0: every picture would wait, or be refused')
    limiter = None

    def predict(data: bytes) -> dict:
        with tempfile.TemporaryDirectory() as folder:  # Windows opens no temporary file twice
            path = Path(folder, 'picture')
            path.write_bytes(data)
            try:
                (sample,) = predictor(str(path))
            except DataError as error:  # the client has given no file of this name
                raise DataError(
                    re.sub(
                        rf"picture ('?{re.escape(str(path))}'?|{re.escape(repr(str(path)))})", 'the picture', str(error)
                    )
                ) from error
        best = sample.pred_score.topk(min(5, len(sample.pred_score)))
        name = predictor.classes.__getitem__ if predictor.classes else str
        return {'classes': [name(int(i)) for i in best.indices], 'scores': [round(float(v), 4) for v in best.values]}

    async def answer(request: Request) -> Response:
        nonlocal limiter
        limiter = limiter or anyio.CapacityLimiter(at_once)
        data = bytearray()
        try:
            async for part in request.stream():
                data += part
                if len(data) > max_bytes:
                    return JSONResponse({'error': f'the picture has more than {max_bytes} bytes'}, 413)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            return JSONResponse(await anyio.to_thread.run_sync(predict, bytes(data), limiter=limiter))
        except DataError as error:
            return JSONResponse({'error': str(error).splitlines()[0]}, 400)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({'classes': len(predictor.classes or ())})

    return Starlette(routes=[Route('/predict', answer, methods=['POST']), Route('/health', health)])


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description='Serve a classifier over HTTP')
    parser.add_argument('model', help='exported file (.onnx, .xml, .pt2) or config')
    parser.add_argument('--checkpoint', help='weights, for a config')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000)
    parser.add_argument('--at-once', type=int, default=1, help='pictures computed side by side')
    parser.add_argument('--max-megabytes', type=float, default=20, help='largest picture')
    args = parser.parse_args()
    predictor = deploy.Predictor(args.model, args.checkpoint)
    app = make_app(predictor, int(args.max_megabytes * 1e6), args.at_once)
    uvicorn.run(app, host=args.host, port=args.port, log_level='warning')


if __name__ == '__main__':
    launch.run_cli(main)
