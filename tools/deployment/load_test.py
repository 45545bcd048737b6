#!/usr/bin/env python
"""Sends pictures to tools/deployment/serve.py from several clients at once: throughput and latency.

python tools/deployment/load_test.py URL PICTURE_OR_FOLDER... [--requests 200] [--clients 4] [--seconds 60]

Bounded in number and time, whichever comes first. Every tenth request is a broken picture, which has to be answered
with 400; anything else than that and 200 is a failure, and the exit status is 1.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import List, Optional

from mmvisionllama import launch
from mmvisionllama.deploy.predictor import list_pictures

try:
    import anyio
    import httpx
except ImportError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'mmvisionllama[serve]'")

BROKEN_EVERY = 10


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Load test of the example server')
    parser.add_argument('url', help='of the server, without /predict')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='pictures or folders of pictures')
    parser.add_argument('--requests', type=int, default=200)
    parser.add_argument('--clients', type=int, default=4)
    parser.add_argument('--seconds', type=float, default=60.0, help='end by then')
    parser.add_argument('--out', type=Path, help='JSON file for the numbers')
    return parser.parse_args(argv)


async def send(args: argparse.Namespace) -> dict:
    """Runs the clients; returns counts, pictures per second and latencies in milliseconds."""
    pictures = [Path(path).read_bytes() for path in list_pictures(args.images)]
    numbers, times, statuses = iter(range(args.requests)), [], {}
    begun = time.perf_counter()

    async def client() -> None:
        async with httpx.AsyncClient(timeout=args.seconds) as http:
            for number in numbers:
                if time.perf_counter() - begun > args.seconds:
                    return
                is_broken = number % BROKEN_EVERY == BROKEN_EVERY - 1
                picture = pictures[number % len(pictures)]
                sent = time.perf_counter()
                content = picture[: len(picture) // 2] if is_broken else picture
                try:
                    status = (await http.post(f'{args.url}/predict', content=content)).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                if not is_broken:
                    times.append(1e3 * (time.perf_counter() - sent))
                kind = f'{"broken" if is_broken else "whole"}: {status}'
                statuses[kind] = statuses.get(kind, 0) + 1

    async with anyio.create_task_group() as group:
        for _ in range(args.clients):
            group.start_soon(client)
    seconds = time.perf_counter() - begun
    if not times:
        raise launch.LaunchError('no picture was sent: give at least one request, and some seconds')
    times.sort()
    latencies = {f'p{q}_ms': round(times[min(len(times) * q // 100, len(times) - 1)], 1) for q in (50, 95, 99)}
    rate = round(len(times) / seconds, 1)
    return dict(clients=args.clients, replies=statuses, seconds=round(seconds, 2), per_second=rate, **latencies)


def main(argv: Optional[List[str]] = None) -> int:
    args = parse_args(argv)
    args.url = args.url.rstrip('/')
    try:
        httpx.get(f'{args.url}/health').raise_for_status()
    except httpx.HTTPError as error:
        raise launch.LaunchError(f'{args.url} does not answer ({error}): start tools/deployment/serve.py') from error
    found = anyio.run(send, args)
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + '\n')
    return int(set(found['replies']) - {'whole: 200', 'broken: 400'} != set())


if __name__ == '__main__':
    sys.exit(launch.run_cli(main))
