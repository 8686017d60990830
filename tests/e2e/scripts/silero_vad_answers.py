"""silero-vad's own answers, and those that it gives with our server in the place of its session, as JSON:
silero_vad_answers.py ADDRESS AUDIO.npy, in .venv-others. AUDIO is float32 [samples] at 16 kHz.
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

STREAMS = 4
"""Audio streams that are listened to at once; each carries its own state."""


def main(address: str, audio: Any) -> None:
    warnings.simplefilter("ignore")  # that the models of 16 kHz take 16 kHz only

    def pair(model: str, ask: Callable[[Any], Any], **options: Any) -> dict[str, Any]:
        """The package's own answer, and the one with the served model."""
        own = load_silero_vad(onnx=True, **options)
        served = load_silero_vad(onnx=True, **options)
        served.session = RemoteSession(address, model)
        return {"own": ask(own), "served": ask(served)}

    def shifted(vad: Any) -> Any:
        """Of one stream: every listener's audio begins elsewhere."""
        with ThreadPoolExecutor(STREAMS) as listeners:
            streams = [np.roll(audio, 3000 * number) for number in range(STREAMS)]
            vads = [load_silero_vad(onnx=True) for _ in streams]
            for one in vads:
                one.session = vad.session
            return list(listeners.map(lambda one, stream: probabilities(one, stream[np.newaxis], 16000), vads, streams))

    told = {
        "16 kHz": pair("silero_vad", lambda vad: probabilities(vad, audio[np.newaxis], 16000)),
        "8 kHz": pair("silero_vad", lambda vad: probabilities(vad, audio[np.newaxis, ::2], 8000)),
        "three in one call": pair(
            "silero_vad", lambda vad: probabilities(vad, np.stack([audio, audio[::-1], audio / 9]), 16000)
        ),
        "at once": pair("silero_vad", shifted),
        "opset 15": pair(
            "silero_vad_16k_op15", lambda vad: probabilities(vad, audio[np.newaxis], 16000), opset_version=15
        ),
        "whole sequence": pair("silero_vad_16k_sequence", lambda vad: vad.audio_forward(audio).tolist(), sequence=True),
        "timestamps": pair("silero_vad", lambda vad: get_speech_timestamps(torch.from_numpy(audio), vad)),
    }
    sys.stdout.write(json.dumps(told))


def probabilities(vad: Any, audio: Any, rate: int) -> list[Any]:
    """[chunks][streams] of audio [streams, samples], a chunk after the other."""
    samples = 512 if rate == 16000 else 256
    vad.reset_states(len(audio))
    chunks = [audio[:, at : at + samples] for at in range(0, audio.shape[1] - samples + 1, samples)]
    return [vad(torch.from_numpy(np.ascontiguousarray(chunk)), rate)[:, 0].tolist() for chunk in chunks]


if __name__ == "__main__":
    main(sys.argv[1], np.load(Path(sys.argv[2])))
