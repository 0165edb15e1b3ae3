// What libtorch can do with TorchScript and torch-sys does not bind: freezing, constants of another type or layout, and
// what a network computes on its way.
//
// Bytes of a file come in, bytes of a file go out, so that nothing of C++ lives on outside this file. No function
// throws. Neighbour: script.rs, which declares these functions and copies what they return.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/Context.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

namespace {

// Floating-point constants to `kind`, weights of convolutions to channels last, which convolutions then compute in.
void convert(torch::jit::Block* block, at::ScalarType kind) {
  for (torch::jit::Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) {
      convert(inner, kind);
    }
    const auto value = c10::attr::value;
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(value) ||
        node->kindOf(value) != torch::jit::AttributeKind::t) {
      continue;
    }
    at::Tensor tensor = node->t(value);
    if (!tensor.is_floating_point()) {
      continue;
    }
    const auto layout = tensor.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    node->t_(value, tensor.detach().to(kind).contiguous(layout));
    node->output()->inferTypeFrom(node->t(value));
  }
}

bool is_convolution(const torch::jit::Node* node) {
  return node->kind().is_aten() && std::string(node->kind().toUnqualString()).find("conv") != std::string::npos;
}

// Makes a frozen `forward` return a tuple: what it returned, and each tensor from its first convolution on, in order.
// Gives one letter for each of these: c for what a convolution gives, t for others. What lies within branches and loops
// is left out.
std::string expose(torch::jit::Module& frozen) {
  torch::jit::Function& forward = frozen.get_method("forward").function();
  const auto graph = torch::jit::toGraphFunction(forward).graph();
  std::vector<torch::jit::Value*> values(graph->outputs().begin(), graph->outputs().end());
  std::string kinds;
  for (torch::jit::Node* node : graph->block()->nodes()) {
    const bool convolution = is_convolution(node);
    if ((kinds.empty() && !convolution) || node->kind() == c10::prim::Constant) {
      continue;
    }
    for (torch::jit::Value* value : node->outputs()) {
      if (value->type()->isSubtypeOf(*c10::TensorType::get())) {
        values.push_back(value);
        kinds += convolution ? 'c' : 't';
      }
    }
  }
  torch::jit::Node* tuple = graph->insertNode(graph->createTuple(values));
  graph->eraseOutput(0);
  graph->registerOutput(tuple->output());
  forward.setSchema(forward.getSchema().cloneWithReturns({c10::Argument("", tuple->output()->type())}));
  return kinds;
}

// The bytes of a module's file, malloc'd; null without memory.
char* saved(const torch::jit::Module& module, size_t* out_length) {
  std::ostringstream out;
  module.save(out);
  const std::string bytes = out.str();
  char* copy = static_cast<char*>(std::malloc(bytes.size() + 1));
  if (copy != nullptr) {
    std::memcpy(copy, bytes.data(), bytes.size());
    *out_length = bytes.size();
  }
  return copy;
}

torch::jit::Module frozen_from(const char* data, size_t length) {
  // Without it inlining goes one call deep, and the network still asks for methods that freezing removed. The thread
  // that calls may have switched it off for what it runs.
  torch::jit::GraphOptimizerEnabledGuard inline_all(true);
  std::istringstream in(std::string(data, length));
  torch::jit::Module module = torch::jit::load(in);
  module.eval();
  return torch::jit::freeze(module);
}

char* copied(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = 0;
  }
  return copy;
}

}  // namespace

extern "C" {

// A TorchScript file with its parameters made constants of `forward`, batch normalisation folded into convolutions, and
// constants in the number type `kind` (c10::ScalarType). Returns malloc'd bytes and their length in `out_length`; on
// failure null, and a malloc'd C string in `error`.
char* sidelight_script_prepare(const char* data, size_t length, int8_t kind, size_t* out_length, char** error) {
  *out_length = 0;
  *error = nullptr;
  try {
    torch::jit::Module frozen = frozen_from(data, length);
    convert(frozen.get_method("forward").graph()->block(), static_cast<at::ScalarType>(kind));
    char* bytes = saved(frozen, out_length);
    if (bytes == nullptr) {
      *error = copied("no memory for the result");
    }
    return bytes;
  } catch (const std::exception& e) {
    *error = copied(e.what());
  } catch (...) {
    *error = copied("an exception without a text");
  }
  return nullptr;
}

// A TorchScript file of the same network, frozen, whose `forward` returns also what it computes from its first
// convolution on (see `expose`, whose letters come back in `kinds`). Memory and errors as `sidelight_script_prepare`.
char* sidelight_script_expose(const char* data, size_t length, size_t* out_length, char** kinds, char** error) {
  *out_length = 0;
  *kinds = nullptr;
  *error = nullptr;
  try {
    torch::jit::Module frozen = frozen_from(data, length);
    const std::string letters = expose(frozen);
    char* bytes = saved(frozen, out_length);
    *kinds = copied(letters);
    if (bytes == nullptr || *kinds == nullptr) {
      *error = copied("no memory for the result");
    }
    return bytes;
  } catch (const std::exception& e) {
    *error = copied(e.what());
  } catch (...) {
    *error = copied("an exception without a text");
  }
  return nullptr;
}

// Gives back what the functions above returned; null is nothing.
void sidelight_script_free(char* memory) {
  std::free(memory);
}

// Algorithms whose results do not depend on the order in which threads finish. A GPU operation that has none goes on and
// warns.
void sidelight_deterministic(bool on) {
  try {
    at::globalContext().setDeterministicAlgorithms(on, true);
    at::globalContext().setDeterministicCuDNN(on);
    at::globalContext().setBenchmarkCuDNN(false);
  } catch (...) {
  }
}
}
