"""onnxruntime, for inference: the network as a graph of Gemm and Relu nodes."""

from collections.abc import Callable

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from workloads import Array, Weights

LABEL = "onnxruntime"
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime of the last years

OPTIONS = onnxruntime.SessionOptions()


def set_threads(threads: int) -> None:
    OPTIONS.intra_op_num_threads = threads
    OPTIONS.inter_op_num_threads = 1


def make_model(weights: Weights) -> onnx.ModelProto:
    nodes, constants, last = [], [], "x"
    for index, (weight, bias) in enumerate(weights):
        constants += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [f"a{index}"]))
        last = f"a{index}"
        if index + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [last], [f"h{index}"]))
            last = f"h{index}"
    inputs, outputs = weights[0][0].shape[0], weights[-1][0].shape[1]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["rows", outputs])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def inference(weights: Weights, x: Array) -> Callable[[], object]:
    session = onnxruntime.InferenceSession(make_model(weights).SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"])
    feed = {"x": x}
    return lambda: session.run(None, feed)
