"""MLServer's runtime for a recognizer's graph: ``"implementation": "mlserver_graph.Graph"`` in a model-settings.json.

Needs mlserver and onnxruntime, and nothing of this project: copy it beside the model-settings.json.
"""

from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class Graph(MLModel):
    """The ONNX file that ``parameters.uri`` names; each request is one utterance."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(str(Path(await get_model_uri(self._settings))))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (features,) = payload.inputs
        names = [output.name for output in payload.outputs or self._session.get_outputs()]
        values = self._session.run(names, {features.name: NumpyCodec.decode_input(features)})
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(names, values)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
