// Memory of tensors on the processor, kept and given out again.
//
// A forward pass takes and returns hundreds of megabytes in blocks of some megabytes. malloc gives such blocks back to the
// system each time, and the system clears each page anew: a tenth of the time of a convolutional network. Here a
// block that is returned waits for the next tensor of about its size, on huge pages where the system has them. What waits
// is bounded; beyond that the block that waited longest is freed. Small blocks are libtorch's own affair.

#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

namespace {

// A smaller block would not fill one.
constexpr size_t HUGE_PAGE = size_t{2} << 20;
// A block may be so much larger than what is asked for, as a part of it.
constexpr size_t SLACK = 8;

class Pool final : public c10::Allocator {
 public:
  explicit Pool(size_t kept_max) : kept_max_(kept_max) {}

  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes < HUGE_PAGE ? c10::alloc_cpu(bytes) : take(bytes);
    return {data, data, &Pool::give, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &Pool::give;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_;
  }

  // Frees what waits.
  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    shrink(0);
  }

  static Pool* installed;

 private:
  struct Block {
    void* data;
    size_t bytes;
  };
  using Blocks = std::list<Block>;

  void* take(size_t bytes) {
    const size_t rounded = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto best = waiting_.end();
      for (auto block = waiting_.begin(); block != waiting_.end(); ++block) {
        const bool fits = block->bytes >= rounded && block->bytes <= rounded + rounded / SLACK;
        if (fits && (best == waiting_.end() || block->bytes < best->bytes)) {
          best = block;
        }
      }
      if (best != waiting_.end()) {
        kept_ -= best->bytes;
        in_use_.splice(in_use_.end(), waiting_, best);
        return best->data;
      }
    }
    // What may throw comes before there is a block.
    Blocks block(1);
    void* data = nullptr;
    if (posix_memalign(&data, HUGE_PAGE, rounded) != 0) {
      // What waits may be in the way.
      clear();
      // As libtorch does, with its words for want of memory.
      return c10::alloc_cpu(bytes);
    }
    madvise(data, rounded, MADV_HUGEPAGE);
    block.front() = {data, rounded};
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      places_.emplace(data, block.begin());
    } catch (...) {
      std::free(data);
      throw;
    }
    in_use_.splice(in_use_.end(), block);
    return data;
  }

  static void give(void* data) {
    // The pool's blocks begin with a huge page; few others do.
    if (reinterpret_cast<uintptr_t>(data) % HUGE_PAGE != 0 || !installed->keep(data)) {
      c10::free_cpu(data);
    }
  }

  // False for a block that is not of the pool. Takes no memory: who gives some back cannot be told that there is none.
  bool keep(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = places_.find(data);
    if (found == places_.end()) {
      return false;
    }
    const auto block = found->second;
    kept_ += block->bytes;
    // One that has no room even alone is the first to go.
    waiting_.splice(block->bytes > kept_max_ ? waiting_.begin() : waiting_.end(), in_use_, block);
    shrink(kept_max_);
    return true;
  }

  void shrink(size_t to) {
    while (kept_ > to) {
      const Block block = waiting_.front();
      places_.erase(block.data);
      waiting_.pop_front();
      kept_ -= block.bytes;
      std::free(block.data);
    }
  }

  const size_t kept_max_;
  std::mutex mutex_;
  // Longest first; no more than some hundreds.
  Blocks waiting_;
  Blocks in_use_;
  // Of all blocks.
  std::unordered_map<void*, Blocks::iterator> places_;
  size_t kept_ = 0;
};

Pool* Pool::installed = nullptr;
std::once_flag once;

}  // namespace

extern "C" {

// Tensors from now on, of all threads; a second call changes nothing.
void sidelight_pool_install(size_t kept_max) {
  std::call_once(once, [kept_max] {
    // For as long as the process: tensors may outlive whatever would own it.
    Pool::installed = new Pool(kept_max);
    c10::SetCPUAllocator(Pool::installed, 1);
  });
}

// Gives what waits back to the system, and what malloc keeps of small blocks.
void sidelight_pool_clear() {
  if (Pool::installed != nullptr) {
    Pool::installed->clear();
  }
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

size_t sidelight_pool_kept() {
  return Pool::installed == nullptr ? 0 : Pool::installed->kept();
}
}
