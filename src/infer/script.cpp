// What libtorch can do with TorchScript and torch-sys does not bind: freezing, and constants of another type or layout.
//
// Bytes of a file come in, bytes of a file go out, so that nothing of C++ lives on outside this file. No function
// throws. Neighbour: script.rs, which declares these functions and copies what they return.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Context.h>
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

char* copied(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = 0;
  }
  return copy;
}

at::Generator generator_of(int device) {
  const at::Device where = device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device));
  return at::globalContext().defaultGenerator(where);
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
    // Without it inlining goes one call deep, and the network still asks for methods that freezing removed. The thread
    // that calls may have switched it off for what it runs.
    torch::jit::GraphOptimizerEnabledGuard inline_all(true);
    std::istringstream in(std::string(data, length));
    torch::jit::Module module = torch::jit::load(in);
    module.eval();
    torch::jit::Module frozen = torch::jit::freeze(module);
    convert(frozen.get_method("forward").graph()->block(), static_cast<at::ScalarType>(kind));
    std::ostringstream out;
    frozen.save(out);
    const std::string bytes = out.str();
    char* copy = copied(bytes);
    if (copy == nullptr) {
      *error = copied("no memory for the result");
      return nullptr;
    }
    *out_length = bytes.size();
    return copy;
  } catch (const std::exception& e) {
    *error = copied(e.what());
  } catch (...) {
    *error = copied("an exception without a text");
  }
  return nullptr;
}

// Gives back what `sidelight_script_prepare` returned; null is nothing.
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

// The state of the random numbers of a device (a CUDA device's index; -1: the CPU) into `out`; its length, or 0 where
// there is none or `capacity` is too small.
size_t sidelight_random_state(int device, char* out, size_t capacity) {
  try {
    at::Generator generator = generator_of(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    const at::Tensor state = generator.get_state().contiguous();
    const size_t length = state.nbytes();
    if (length > capacity) {
      return 0;
    }
    std::memcpy(out, state.data_ptr(), length);
    return length;
  } catch (...) {
    return 0;
  }
}

// Puts such a state back; whether it could be.
bool sidelight_set_random_state(int device, const char* data, size_t length) {
  try {
    at::Generator generator = generator_of(device);
    at::Tensor state = at::empty({static_cast<int64_t>(length)}, at::kByte);
    std::memcpy(state.data_ptr(), data, length);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
    return true;
  } catch (...) {
    return false;
  }
}
}
