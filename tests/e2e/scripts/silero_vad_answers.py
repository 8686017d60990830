"""Prints silero-vad's answers as JSON: those of its own ONNX Runtime session, and those of models on a server.

Run in .venv-others: ``python silero_vad_answers.py ADDRESS AUDIO.npy``. AUDIO is float32 [samples] at 16 kHz.
"""

import json
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from remote_session import RemoteSession
from silero_vad import get_speech_timestamps, load_silero_vad

CHUNK = 512
"""The number of samples that the detector reads at a time, at 16 kHz."""
STREAMS = 4
"""The number of concurrent audio streams. Each stream carries its own recurrent state from chunk to chunk."""


def main(address: str, audio: Any) -> None:
    warnings.simplefilter("ignore")  # the 16 kHz models warn that they accept no other sample rate

    def both(model: str, detect: Callable[[Any], Any], **options: Any) -> dict[str, Any]:
        """The answers of the package's own session and of the served model."""
        local = load_silero_vad(onnx=True, **options)
        served = load_silero_vad(onnx=True, **options)
        served.session = RemoteSession(address, model)
        return {"local": detect(local), "served": detect(served)}

    def detect_in_streams(vad: Any) -> Any:
        """Answers for STREAMS concurrent streams that share one session. Each stream starts at a different sample."""
        with ThreadPoolExecutor(STREAMS) as threads:
            streams = [np.roll(audio, 3000 * number) for number in range(STREAMS)]
            vads = [load_silero_vad(onnx=True) for _ in streams]
            for stream_vad in vads:
                stream_vad.session = vad.session
            return list(threads.map(lambda vad, stream: probabilities(vad, stream[np.newaxis]), vads, streams))

    answers = {
        "16 kHz": both("silero_vad", lambda vad: probabilities(vad, audio[np.newaxis])),
        "published": both("published_vad", lambda vad: probabilities(vad, audio[np.newaxis])),
        "batch of three": both("silero_vad", lambda vad: probabilities(vad, np.stack([audio, audio[::-1], audio / 9]))),
        "concurrent streams": both("silero_vad", detect_in_streams),
        "whole sequence": both("silero_vad_16k_sequence", lambda vad: vad.audio_forward(audio).tolist(), sequence=True),
        "timestamps": both("silero_vad", lambda vad: get_speech_timestamps(torch.from_numpy(audio), vad)),
    }
    json.dump(answers, sys.stdout)


def probabilities(vad: Any, audio: Any) -> list[Any]:
    """The speech probabilities [chunks][streams] of audio [streams, samples], computed chunk by chunk."""
    vad.reset_states(len(audio))
    chunks = [audio[:, start : start + CHUNK] for start in range(0, audio.shape[1] - CHUNK + 1, CHUNK)]
    return [vad(torch.from_numpy(np.ascontiguousarray(chunk)), 16_000)[:, 0].tolist() for chunk in chunks]


if __name__ == "__main__":
    main(sys.argv[1], np.load(Path(sys.argv[2])))
