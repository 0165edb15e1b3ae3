// What libtorch can do with TorchScript and torch-sys does not bind: looking at what a file would do, freezing, constants
// of another type, layout or order, and what a network computes on its way.
//
// Bytes of a file come in, bytes of a file go out, so that nothing of C++ lives on outside this file. No function
// throws. Neighbour: script.rs, which declares these functions and copies what they return.

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

namespace {

// Every floating-point constant, also within branches and loops, in exchange for what `change` makes of it.
template <typename Change>
void each_constant(torch::jit::Block* block, const Change& change) {
  for (torch::jit::Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) {
      each_constant(inner, change);
    }
    const auto value = c10::attr::value;
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(value) ||
        node->kindOf(value) != torch::jit::AttributeKind::t || !node->t(value).is_floating_point()) {
      continue;
    }
    node->t_(value, change(node->t(value).detach()));
    node->output()->inferTypeFrom(node->t(value));
  }
}

// Floating-point constants to `kind`, weights of convolutions to channels last, which convolutions then compute in.
void convert(torch::jit::Block* block, at::ScalarType kind) {
  each_constant(block, [kind](const at::Tensor& tensor) {
    const auto layout = tensor.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    return tensor.to(kind).contiguous(layout);
  });
}

// Puts the values of each weight (a constant of two or more dimensions) in another order, by libtorch's own generator.
// Returns how many weights there are.
size_t forget(torch::jit::Block* block) {
  size_t weights = 0;
  each_constant(block, [&weights](const at::Tensor& tensor) {
    if (tensor.dim() < 2 || tensor.numel() < 2) {
      return tensor;
    }
    ++weights;
    const at::Tensor order = at::randperm(tensor.numel(), at::TensorOptions(at::kLong).device(tensor.device()));
    return tensor.reshape({-1}).index_select(0, order).view(tensor.sizes());
  });
  return weights;
}

// Operators that only compute are of these namespaces, but for a few: files, what is printed, other processes.
bool reaches_beyond(const std::string& space, const std::string& name) {
  const auto is = [](const std::string& word) { return [&word](const char* other) { return word == other; }; };
  const std::array<const char*, 8> spaces = {"aten",    "prim",     "quantized",        "_quantized",
                                             "sparse", "prepacked", "mkldnn_prepacked", "quantization"};
  const std::array<const char*, 4> names = {"save", "from_file", "Print", "_print"};
  return std::none_of(spaces.begin(), spaces.end(), is(space)) || std::any_of(names.begin(), names.end(), is(name)) ||
      name.rfind("rpc_", 0) == 0;
}

void refuse(const std::string& what) {
  throw std::runtime_error("it calls " + what + ", which is no part of a network: take it out and export the network again");
}

void check(const torch::jit::Block* block) {
  for (const torch::jit::Node* node : block->nodes()) {
    const std::string space = node->kind().ns().toUnqualString();
    const std::string name = node->kind().toUnqualString();
    if (reaches_beyond(space, name)) {
      refuse(space + "::" + name);
    }
    for (const torch::jit::Block* inner : node->blocks()) {
      check(inner);
    }
    for (const auto& attribute : node->attributeNames()) {
      if (node->kindOf(attribute) == torch::jit::AttributeKind::g) {
        check(node->g(attribute)->block());
      } else if (node->kindOf(attribute) == torch::jit::AttributeKind::gs) {
        for (const auto& graph : node->gs(attribute)) {
          check(graph->block());
        }
      }
    }
  }
}

bool has_word(const std::string& text, const std::string& word) {
  const auto inside = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !inside(text[at - 1])) && (end == text.size() || !inside(text[end]))) {
      return true;
    }
  }
  return false;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// What a file would do while it is loaded: the code of `__setstate__`, as text, since nothing has been read yet. libtorch
// looks its records up without regard to case, and compares names longer than it lists: so all of the folder is read,
// whatever its case and its names end with, and a record that is not found under the name that it is listed by is an
// error. The oldest format, which keeps code under any name, is refused.
void check_code(const std::string& file) {
  std::istringstream in(file);
  caffe2::serialize::PyTorchStreamReader reader(&in);
  std::string code;
  std::set<std::string> seen;
  for (const std::string& name : reader.getAllRecords()) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    if (lower == "model.json") {
      throw std::runtime_error("it is of the oldest format of TorchScript: save it again with PyTorch 1.4 or later");
    }
    if (!seen.insert(lower).second) {
      throw std::runtime_error("it has two records that differ at most in case: " + name.substr(0, 100));
    }
    if (lower.rfind("code/", 0) == 0 && !ends_with(name, ".debug_pkl")) {
      const auto record = reader.getRecord(name);
      code.append(static_cast<const char*>(std::get<0>(record).get()), std::get<1>(record));
      code.push_back('\n');
    }
  }
  if (!has_word(code, "__setstate__")) {
    return;
  }
  for (const char* word : {"save", "from_file", "print", "_print", "c10d", "_c10d_functional", "rpc_sync", "rpc_async"}) {
    if (has_word(code, word)) {
      refuse(std::string(word) + " in a file with code that runs while it is loaded");
    }
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

char* copied(const char* text, size_t length) noexcept {
  char* copy = static_cast<char*>(std::malloc(length + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text, length);
    copy[length] = 0;
  }
  return copy;
}

char* copied(const char* text) noexcept {
  return copied(text, std::strlen(text));
}

at::Generator generator_of(int device) {
  const at::Device where = device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device));
  return at::globalContext().defaultGenerator(where);
}

}  // namespace

extern "C" {

// Whether all functions of a TorchScript file compute and do nothing else. Runs none of them. If not: false, and in
// `error` a malloc'd C string that says why, or null without memory for it.
bool sidelight_script_check(const char* data, size_t length, char** error) {
  *error = nullptr;
  try {
    const std::string file(data, length);
    std::istringstream in(file);
    try {
      check_code(file);
      const torch::jit::Module module = torch::jit::load(in);
      for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
        function->ensure_defined();
        check(torch::jit::toGraphFunction(*function).graph()->block());
      }
      return true;
    } catch (const c10::Error& e) {
      throw std::runtime_error(std::string("not a TorchScript file for this libtorch: ") + e.what_without_backtrace());
    }
  } catch (const std::exception& e) {
    *error = copied(e.what());
  } catch (...) {
    *error = copied("an exception without a text");
  }
  return false;
}

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
    *kinds = copied(letters.data(), letters.size());
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

// A frozen network that forgot what it learned: each weight has its values in another order. Memory and errors as
// `sidelight_script_prepare`.
char* sidelight_script_forget(const char* data, size_t length, size_t* out_length, char** error) {
  *out_length = 0;
  *error = nullptr;
  try {
    torch::jit::Module frozen = frozen_from(data, length);
    if (forget(frozen.get_method("forward").graph()->block()) == 0) {
      throw std::runtime_error("it has no weights");
    }
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

// Gives back what the functions above returned; null is nothing.
void sidelight_script_free(char* memory) {
  std::free(memory);
}

// From the first to the second call tensors of this thread know nothing of gradients, nor of who else sees them.
void* sidelight_inference_begin() {
  try {
    return new c10::InferenceMode(true);
  } catch (...) {
    return nullptr;
  }
}

void sidelight_inference_end(void* mode) {
  delete static_cast<c10::InferenceMode*>(mode);
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
